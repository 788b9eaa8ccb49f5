"""Replayed CUDA graphs and compiled steps on a device give what the potential gives there."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomol.compiled import CompiledPotential, Form, ReplayedPotential
from geomol.graph import Graph, build_graph
from geomol.models import EGNN, Ponita
from geomol.potential import Potential

pytestmark = pytest.mark.gpu
ELEMENTS = [1, 6, 8, 29]


@pytest.fixture(params=["egnn", "ponita"])
def potential(request: pytest.FixtureRequest) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kinds = {"egnn": EGNN, "ponita": Ponita}
        backbone = kinds[request.param](elements=ELEMENTS, channels=16, num_layers=2, cutoff=4.0)
        return Potential(backbone, elements=ELEMENTS, e0=[-1.0, -2.0, -3.0, -4.0]).double().to("cuda")


def moved(atoms: Atoms, seed: int, by: float = 0.05) -> Graph:
    copy = atoms.copy()
    copy.rattle(by, seed=seed)
    return build_graph(copy, 4.0).to("cuda")


@pytest.mark.parametrize("backend", [None, "inductor"])
@pytest.mark.parametrize("periodic", [False, True])
def test_replayed_steps_equal_the_potential_while_atoms_move(
    potential: Potential, periodic: bool, backend: str | None
) -> None:
    atoms = bulk("Cu", cubic=True).repeat(2) if periodic else molecule("CH3CH2OH")
    replayed = ReplayedPotential(potential, backend=backend)
    for seed in range(20):
        graph = moved(atoms, seed)
        expected, got = potential(graph, stress=periodic), replayed(graph, stress=periodic)
        torch.testing.assert_close(got.energy, expected.energy, atol=1e-10, rtol=0)
        torch.testing.assert_close(got.forces, expected.forces, atol=1e-10, rtol=0)
        if periodic:
            torch.testing.assert_close(got.stress, expected.stress, atol=1e-10, rtol=0)
    assert replayed.recordings == 1


def test_more_pairs_than_there_is_room_for_are_recorded_anew(potential: Potential) -> None:
    replayed = ReplayedPotential(potential, slack=1.0)
    wide, tight = bulk("Cu", a=4.2, cubic=True).repeat(2), bulk("Cu", a=3.2, cubic=True).repeat(2)
    for atoms in (wide, tight, wide):
        graph = moved(atoms, 0, by=0.01)
        torch.testing.assert_close(replayed(graph).forces, potential(graph).forces, atol=1e-10, rtol=0)
    assert replayed.recordings == 2


def test_a_result_outlives_the_next_replay_and_repeats_bit_for_bit(potential: Potential) -> None:
    replayed = ReplayedPotential(potential)
    atoms = molecule("CH3CH2OH")
    first = replayed(moved(atoms, 0)).forces
    kept = first.clone()
    replayed(moved(atoms, 1))
    assert torch.equal(first, kept)
    assert torch.equal(replayed(moved(atoms, 0)).forces, first)


def test_compiled_steps_are_checked_and_train_on_a_device(potential: Potential) -> None:
    compiled = CompiledPotential(potential)
    for training in (False, True):
        assert compiled.prepare(Form(periodic=False, single=False, stress=False, training=training)) > 0
