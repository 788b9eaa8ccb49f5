"""Peers whose forces are the gradient with something held, FAENet's calculator on a small network, and turned cells."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation

SCALED = """
from ase.calculators.lj import LennardJones
from peers.models import Peer


class Scaled(LennardJones):
    held = None

    def factor(self, atoms):
        return atoms.get_distance(0, 1) ** 40

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        factor = self.factor(self.atoms) if self.held is None else self.held
        for name in ("energy", "forces"):  # as if the factor did not depend on the positions
            self.results[name] = factor * self.results[name]

    def hold(self, atoms):
        self.reset()
        self.held = None if atoms is None else self.factor(atoms)


def build(s):
    calculator = Scaled(sigma=1.0, epsilon=0.1, rc=s.cutoff, ro=0.7 * s.cutoff, smooth=True)
    return Peer(calculator, 2, lambda atoms: None, "", held="factor", hold=calculator.hold)
"""


def test_the_gate_holds_what_the_forces_hold_and_tells_the_error_without(tmp_path: Path) -> None:
    process, gates, report = (importlib.import_module(f"peers.{name}") for name in ("process", "gates", "report"))
    path = tmp_path / "scaled.py"
    path.write_text(SCALED)
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=0)
    with process.Worker(Path(sys.executable), None, threads=1, log=tmp_path / "log.txt") as worker:
        built = worker.build(f"{path}:build", atoms, cutoff=5.0, dtype="float64", seed=0)
        assert built["held"] == "factor"
        gate, forces = gates.check(worker, atoms, held="factor")
        plain, _ = gates.check(worker, atoms)
        _, again = gates.evaluate(worker, atoms.positions, atoms.cell.tolist())
    assert gate.passed
    assert gate.gradient_error < 1e-4 < 1e-2 < gate.free_gradient_error
    assert gate.rotation_error < 1e-12
    assert not plain.passed  # the control: without holding it, the same forces are not the gradient
    assert plain.gradient_error == pytest.approx(gate.free_gradient_error)
    np.testing.assert_array_equal(again, forces)  # let go afterwards
    text = report._gradient(gate.figures())
    assert "(factor held; " in text
    assert report._gradient(plain.figures()) == f"{plain.gradient_error:.0e}"


@pytest.fixture
def averaged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`peers.averaged` with a stand-in for the package: axes of the covariance, a pair energy that sees direction."""

    class FrameAveraging:
        def __init__(self, kind: str, method: str) -> None:
            assert (kind, method) == ("3D", "stochastic")

        def __call__(self, graph: Any) -> Any:
            centred = graph.pos - graph.pos.mean(dim=0, keepdim=True)
            _, axes = torch.linalg.eigh(centred.T @ centred)
            graph.fa_pos, graph.fa_cell, graph.fa_rot = [centred @ axes], [graph.cell @ axes], [axes[None]]
            return graph

    def model_forward(graph: Any, model: Any, **options: Any) -> dict[str, torch.Tensor]:
        assert options == {"frame_averaging": "3D", "mode": "inference", "crystal_task": True}
        pos = graph.fa_pos[0].requires_grad_()
        sender, receiver = graph.edge_index
        shift = (graph.cell_offsets.to(pos.dtype)[:, None] @ graph.fa_cell[0].repeat(len(sender), 1, 1))[:, 0]
        vectors = pos[sender] - pos[receiver] + shift
        assert (vectors.detach().norm(dim=1) < 4.0 + 1e-4).all()
        assert len(vectors) == int(graph.neighbors)
        energy = model(vectors)
        (gradient,) = torch.autograd.grad(energy, pos)
        return {"energy": energy[None], "forces": -gradient @ graph.fa_rot[0][0].T}

    package = types.ModuleType("faenet")
    package.FrameAveraging, package.model_forward = FrameAveraging, model_forward  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faenet", package)
    return importlib.import_module("peers.averaged")


def calculator(averaged: Any, dtype: str = "float64") -> Any:
    models = importlib.import_module("peers.models")

    class Directed(torch.nn.Module):
        def forward(self, vectors: torch.Tensor) -> torch.Tensor:
            x = vectors @ torch.tensor([1.0, 0.3, -0.2], dtype=vectors.dtype)
            return (x**2 * torch.exp(-(vectors**2).sum(dim=1) / 4)).sum()

    return averaged.FrameCalculator(Directed(), "stochastic", models.Settings((29,), 4.0, dtype, 0))


@pytest.mark.parametrize("periodic", [False, True])
def test_forces_of_frames_are_the_gradient_with_frame_and_pairs_held(averaged: Any, periodic: bool) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 3) if periodic else molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=0)
    calc = calculator(averaged)
    direction = np.random.default_rng(1).normal(size=(len(atoms), 3))
    direction /= np.linalg.norm(direction)

    def energy(step: float) -> tuple[float, np.ndarray]:
        moved = atoms.copy()
        moved.positions += step * direction
        moved.calc = calc
        return moved.get_potential_energy(), moved.get_forces()

    _, forces = energy(0.0)
    slopes = {}
    for held in (True, False):
        calc.hold(atoms if held else None)
        slopes[held] = (energy(1e-4)[0] - energy(-1e-4)[0]) / 2e-4
    expected, rms = -(forces * direction).sum(), float(np.sqrt(np.mean(forces**2)))
    assert abs(slopes[True] - expected) < 1e-6 * rms
    assert abs(slopes[False] - expected) > 1e-3 * rms  # the axes do turn with the positions


def test_a_frame_is_the_same_in_either_precision_while_held(averaged: Any) -> None:
    atoms = molecule("CH3CH2OH")
    found = []
    for dtype in ("float64", "float32"):
        calc = calculator(averaged, dtype)
        calc.hold(atoms)
        at = atoms.copy()
        at.calc = calc
        found.append(at.get_forces())
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


def test_a_turned_cell_stands_again_and_vectors_turn_back() -> None:
    wrapped = importlib.import_module("peers.wrapped")
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.rattle(0.05, seed=0)
    assert wrapped.standing(atoms)[0] is atoms.positions or np.array_equal(wrapped.standing(atoms)[0], atoms.positions)
    np.testing.assert_array_equal(wrapped.standing(atoms)[2], np.eye(3))
    turn = Rotation.random(rng=np.random.default_rng(0)).as_matrix()
    turned = Atoms(atoms.numbers, atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=True)
    positions, cell, back = wrapped.standing(turned)
    np.testing.assert_array_equal(cell, np.tril(cell))
    assert (np.diag(cell) > 0).all()
    np.testing.assert_allclose(positions @ back, turned.positions, atol=1e-12)
    np.testing.assert_allclose(cell @ back, turned.cell.array, atol=1e-12)
    standing = Atoms(atoms.numbers, positions, cell=cell, pbc=True)
    expected, found = (np.sort(neighbor_list("d", a, 5.0)) for a in (atoms, standing))
    np.testing.assert_allclose(found, expected, atol=1e-12)
