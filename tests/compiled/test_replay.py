"""Replayed steps, with a recording that is computed anew at each replay in place of a CUDA graph."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import geomol.md.calculator
from geomol.compiled import ReplayedPotential
from geomol.compiled.replay import _Recording
from geomol.errors import ConfigError
from geomol.graph import Graph, build_graph
from geomol.md import GeomolCalculator
from geomol.models import EGNN
from geomol.potential import Potential


class _Replay:
    """What a CUDA graph does: from the inputs where they lie to the outputs where they lie."""

    def __init__(self, step: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        self.step, self.inputs, self.outputs = step, inputs, outputs

    @torch.no_grad()
    def replay(self) -> None:
        for held, new in zip(self.outputs, self.step(*self.inputs), strict=True):
            held.copy_(new)


class OnCPU(ReplayedPotential):
    def __init__(self, potential: Potential, *, backend: str | None = None, **settings: Any) -> None:
        super().__init__(potential, backend=backend, **settings)

    def _check_device(self, device: torch.device) -> None:
        pass

    @torch.no_grad()
    def _record(self, form: Any, padded: Graph) -> _Recording:
        traced, step = self._step(form)
        inputs = [value.clone() for value in traced.arguments(padded)]
        outputs = [torch.full_like(out, torch.nan) for out in step(*inputs)]
        return _Recording(padded.num_edges, inputs, outputs, _Replay(step, inputs, outputs))


@pytest.fixture
def potential() -> Potential:
    torch.manual_seed(0)
    backbone = EGNN(elements=[1, 6, 8, 29], channels=8, num_layers=2, cutoff=4.0)
    return Potential(backbone, elements=[1, 6, 8, 29], e0=[-1.0, -2.0, -3.0, -4.0]).double().eval()


def moved(atoms: Atoms, seed: int, by: float = 0.05) -> Graph:
    copied = atoms.copy()
    copied.rattle(by, seed=seed)
    return build_graph(copied, 4.0)


@pytest.mark.parametrize(("periodic", "backend"), [(False, None), (True, None), (False, "inductor")])
def test_replayed_steps_equal_the_potential_while_atoms_move(
    potential: Potential, periodic: bool, backend: str | None
) -> None:
    atoms = bulk("Cu", cubic=True).repeat(2) if periodic else molecule("CH3CH2OH")
    replayed = OnCPU(potential, backend=backend)
    kept = []
    for seed in range(5):
        graph = moved(atoms, seed)
        expected, got = potential(graph, stress=periodic), replayed(graph, stress=periodic)
        torch.testing.assert_close(got.energy, expected.energy, atol=1e-10, rtol=0)
        torch.testing.assert_close(got.forces, expected.forces, atol=1e-10, rtol=0)
        if periodic:
            torch.testing.assert_close(got.stress, expected.stress, atol=1e-10, rtol=0)
        kept.append((got.forces, got.forces.clone()))
    assert replayed.recordings == 1
    assert all(torch.equal(*pair) for pair in kept), "a result must outlive the next replay"
    assert not torch.equal(kept[0][0], kept[1][0])


def test_more_pairs_than_there_is_room_for_are_recorded_anew(potential: Potential) -> None:
    replayed = OnCPU(potential, slack=1.0)
    wide, tight = bulk("Cu", a=4.2, cubic=True).repeat(2), bulk("Cu", a=3.2, cubic=True).repeat(2)
    for atoms in (wide, tight, wide):
        graph = moved(atoms, 0, by=0.01)
        torch.testing.assert_close(replayed(graph).forces, potential(graph).forces, atol=1e-10, rtol=0)
    assert replayed.recordings == 2


def test_several_systems_and_single_atoms_go_another_way(potential: Potential) -> None:
    replayed = OnCPU(potential)
    alone = build_graph(Atoms("Cu"), 4.0)
    torch.testing.assert_close(replayed(alone).energy, potential(alone).energy)
    assert replayed.recordings == 0


def test_a_copy_makes_its_own_recordings(potential: Potential) -> None:
    replayed = OnCPU(potential)
    graph = moved(molecule("CH3CH2OH"), 0)
    expected = replayed(graph).forces
    copied = copy.deepcopy(replayed)
    torch.testing.assert_close(copied(graph).forces, expected, atol=0, rtol=0)
    assert copied.potential is not replayed.potential
    assert copied.recordings == 2


def test_the_calculator_replays_on_a_cuda_device(potential: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, atoms = GeomolCalculator(potential), molecule("CH3CH2OH")
    expected = plain.get_forces(atoms)
    monkeypatch.setattr(geomol.md.calculator, "ReplayedPotential", OnCPU)
    monkeypatch.setattr(geomol.md.calculator, "_on_cuda", lambda model: True)
    calculator = GeomolCalculator(potential, compile=True)
    assert isinstance(calculator.models[0], OnCPU)
    assert abs(calculator.get_forces(atoms) - expected).max() < 1e-10
    assert calculator.fingerprint != plain.fingerprint  # other arithmetic: not the same trajectory to the last bit
    fingerprint = calculator.fingerprint
    with torch.no_grad():
        next(potential.parameters()).add_(0.1)
    assert calculator.fingerprint != fingerprint


def test_without_a_device_it_says_so(potential: Potential) -> None:
    with pytest.raises(ConfigError, match="CUDA graphs need a CUDA device"):
        ReplayedPotential(potential)
    with pytest.raises(ConfigError, match="slack must be at least 1"):
        OnCPU(potential, slack=0.9)
