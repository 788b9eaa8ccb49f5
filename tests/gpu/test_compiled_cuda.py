"""Replayed CUDA graphs and compiled steps on a device give what the potential gives there."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomol.compiled import CompiledPotential, Form, ReplayedPotential, ReplayedTraining
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


@pytest.mark.parametrize("backend", [None, "inductor"])
def test_replayed_training_steps_have_the_gradients_of_the_potential(potential: Potential, backend: str | None) -> None:
    replayed = ReplayedTraining(potential, backend=backend)
    weights = [p for p in potential.parameters() if p.requires_grad]
    for seed in range(10):
        atoms = [molecule(name) for name in ("CH3CH2OH", "H2O", "CH4")]
        for one in atoms:
            one.rattle(0.05, seed=seed)
        graph = build_graph(atoms, 4.0).to("cuda")
        found = []
        for model in (replayed, potential):
            out = model(graph, create_graph=True)
            loss = out.energy.sin().sum() + (out.forces**3).sum()
            found.append(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
        for got, expected in zip(*found, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10 * float(1 + expected.abs().max()))
    assert replayed.recordings == 1
