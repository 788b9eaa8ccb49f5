"""Dynamics of every mode: order and reversibility of the integrator, and the neighbour list with a skin.

Structures with random weights fall apart or together within a few hundred femtoseconds. A stiff Morse potential holds
them here, beside a third of the random energy. Numbers in brackets: the project's list of checks.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from contract.modes import CONTINUOUS, JUMPING, MODES, PERIODIC, make, potential_of
from torch import nn

from geomol.errors import GeomolWarning
from geomol.graph import Graph
from geomol.md import GeomolCalculator
from geomol.models import Features, Morse
from geomol.potential import Potential

LENGTH = 1.6  # Å, of the bonds of the cluster
COPPER = {"depth": 0.34, "a": 1.36, "r0": 2.87}  # Girifalco and Weizer


class Held(nn.Module):
    """A third of a backbone, and Morse pairs that keep the atoms where they are."""

    def __init__(self, backbone: nn.Module, holder: Morse) -> None:
        super().__init__()
        self.backbone, self.holder = backbone, holder
        self.cutoff, self.symmetry = backbone.cutoff, backbone.symmetry
        self.config: dict[str, object] = {}

    def forward(self, graph: Graph) -> Features:
        return Features(self.backbone(graph).scalars / 3 + self.holder(graph).scalars)


def held(potential: Potential, **morse: float) -> Potential:
    holder = Morse(cutoff=4.0, **morse)
    e0 = [0.0] * len(potential.elements)
    return Potential(
        Held(potential.backbone, holder), elements=potential.elements, e0=e0, allow_discontinuous=True
    ).eval()


def cluster(seed: int = 0) -> Atoms:
    """Four different atoms, each bound to all others, at 100 K."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(8)
    atoms = Atoms("CNOF", LENGTH * corners)
    thermalise(atoms, 100, seed)
    return atoms


def crystal() -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.9, cubic=True)
    atoms.rattle(0.05, seed=1)
    thermalise(atoms, 300, 1)
    atoms.set_momenta(atoms.get_momenta() + 3.0)  # a drift through the cell boundary
    return atoms


def thermalise(atoms: Atoms, temperature: float, seed: int) -> None:
    width = np.sqrt(units.kB * temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(width * np.random.default_rng(seed).normal(size=(len(atoms), 3)))


def held_cluster(mode: str) -> tuple[Potential, Atoms]:
    return held(make(mode), depth=2.0, a=1.5, r0=LENGTH), cluster()


def total_energies(potential: Potential, atoms: Atoms, step: float, num: int) -> np.ndarray:
    """Along a trajectory that the atoms themselves do not follow."""
    atoms = atoms.copy()
    atoms.calc = GeomolCalculator(potential)
    dyn, found = VelocityVerlet(atoms, step * units.fs), []
    for _ in range(num):
        dyn.step()
        found.append(atoms.get_total_energy())
    return np.array(found)


def fluctuation_ratio(potential: Potential, atoms: Atoms, step: float = 1.0, num: int = 30) -> float:
    """How much less the energy fluctuates with half the time step, at the same times."""
    coarse, fine = total_energies(potential, atoms, step, num), total_energies(potential, atoms, step / 2, 2 * num)
    return float(coarse.std() / fine[1::2].std())


def way_back_error(potential: Potential, atoms: Atoms, steps: int) -> float:
    """How far from its start (Å) a trajectory ends when velocities are reversed half way."""
    atoms = atoms.copy()
    atoms.calc = GeomolCalculator(potential)
    start = atoms.positions.copy()
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    dyn.run(steps)
    assert np.abs(atoms.positions - start).max() > 0.01
    assert np.linalg.norm(atoms.positions - atoms.positions.mean(0), axis=1).max() < 2 * LENGTH
    atoms.set_momenta(-atoms.get_momenta())
    dyn.run(steps)
    return float(np.abs(atoms.positions - start).max())


def skin_error(potential: Potential, atoms: Atoms, steps: int, *, skin: float = 0.4) -> tuple[float, int]:
    """Largest difference of energies (eV) to a new search at the same place, and how many searches the skin needed.

    Each step is as long as several of a simulation, so that few calls go far.
    """
    atoms.calc, fresh = GeomolCalculator(potential, skin=skin), GeomolCalculator(potential, skin=0.0)
    dyn, worst = VelocityVerlet(atoms, 4.0 * units.fs), 0.0
    for number in range(steps):
        dyn.step()
        if atoms.pbc.any() and number % 25 == 0:
            atoms.wrap()
        twin = atoms.copy()
        twin.calc = fresh
        worst = max(worst, abs(atoms.get_potential_energy() - twin.get_potential_energy()))
    return worst, atoms.calc.neighbours.rebuilds


# [24] order


@pytest.mark.parametrize("mode", CONTINUOUS)
def test_energy_fluctuation_falls_fourfold_when_the_time_step_halves(mode: str) -> None:
    assert 3.6 < fluctuation_ratio(*held_cluster(mode)) < 4.4


def test_forces_of_a_hundredth_too_much_do_not_pass_for_the_gradient() -> None:
    """The control: the energy then changes with the potential energy, whatever the step."""

    class Wrong(Potential):
        def forward(self, graph, **settings):
            out = super().forward(graph, **settings)
            return type(out)(out.energy, out.node_energy, 1.01 * out.forces, out.stress)

    potential, atoms = held_cluster("egnn")
    wrong = Wrong(potential.backbone, elements=potential.elements, e0=potential.e0_values)
    assert fluctuation_ratio(wrong, atoms) < 2


@pytest.mark.parametrize(
    "config", [JUMPING["pca"][0], JUMPING["single"][0], {**MODES["robust-mpnn"], "differentiable": False}]
)
def test_energies_that_jump_or_forces_without_the_slope_of_frames_do_not_pass(config: dict[str, object]) -> None:
    """The control; the principal moments of the cluster are nearly equal, and change places all the time."""
    rough = held(potential_of(config, allow_discontinuous=True), depth=2.0, a=1.5, r0=LENGTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeomolWarning)  # which says so
        assert fluctuation_ratio(rough, cluster()) < 3.3


# [25] reversibility


@pytest.mark.parametrize("mode", CONTINUOUS)
def test_reversed_velocities_lead_back_to_the_start(mode: str) -> None:
    assert way_back_error(*held_cluster(mode), 30) < 1e-8


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[] if mode == "mpnn" else pytest.mark.slow) for mode in CONTINUOUS]
)
def test_reversed_velocities_lead_back_after_1000_steps(mode: str) -> None:
    assert way_back_error(*held_cluster(mode), 1000) < 1e-8


# [16] skin


@pytest.mark.parametrize("mode", CONTINUOUS)
def test_a_list_with_a_skin_gives_what_a_search_at_every_step_gives(mode: str) -> None:
    potential, atoms = held_cluster(mode)
    worst, rebuilds = skin_error(potential, atoms, 15, skin=0.2)
    assert worst < 1e-10
    assert rebuilds < 15


@pytest.mark.parametrize("mode", PERIODIC)
def test_a_list_with_a_skin_gives_the_same_in_crystals_whose_atoms_are_wrapped(mode: str) -> None:
    worst, rebuilds = skin_error(held(make(mode), **COPPER), crystal(), 30)
    assert worst < 1e-10
    assert 2 <= rebuilds < 20


@pytest.mark.slow
@pytest.mark.parametrize("mode", PERIODIC)
def test_a_list_with_a_skin_gives_the_same_for_5000_steps(mode: str) -> None:
    worst, rebuilds = skin_error(held(make(mode), **COPPER), crystal(), 5000)
    assert worst < 1e-10
    assert rebuilds < 2500
