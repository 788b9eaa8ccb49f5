"""Observables against values known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule

from geomol.errors import InputError
from geomol.md import (
    bond_lengths,
    energy_drift,
    mean_square_displacement,
    mean_with_interval,
    rdf,
    temperature,
)
from geomol.md.observables import statistical_inefficiency

TRUE_DRIFT = 2.0  # meV/atom/ns


def correlated(rng: np.random.Generator, count: int, memory: float) -> np.ndarray:
    """First-order autoregressive noise of unit variance; g = (1 + memory) / (1 − memory)."""
    kicks = rng.standard_normal(count) * (1 - memory**2) ** 0.5
    out = np.empty(count)
    out[0] = rng.standard_normal()
    for k in range(1, count):
        out[k] = memory * out[k - 1] + kicks[k]
    return out


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_the_drift_interval_holds_the_truth_as_often_as_it_says(memory):
    rng = np.random.default_rng(0)
    time_fs = np.arange(4000) * 5.0
    line = -100.0 + TRUE_DRIFT * 9 / 1000 * time_fs / 1e6  # eV, nine atoms
    hits, naive_hits, runs = 0, 0, 200
    for _ in range(runs):
        energy = line + 1e-4 * correlated(rng, 4000, memory)
        drift = energy_drift(time_fs, energy, 9)
        hits += drift.low <= TRUE_DRIFT <= drift.high
        naive = drift.half_width / statistical_inefficiency(energy - line) ** 0.5
        naive_hits += abs(drift.value - TRUE_DRIFT) <= naive
    assert 0.90 <= hits / runs <= 0.99
    if memory > 0:
        # control: an interval that takes the points for independent is wrong most of the time
        assert naive_hits / runs < 0.6


def test_the_drift_of_a_line_is_its_slope():
    time_fs = np.arange(100) * 10.0
    assert energy_drift(time_fs, 5.0 + 1e-6 * time_fs, 10).value == pytest.approx(1e-6 * 1e3 * 1e6 / 10)


def test_a_drift_needs_three_points():
    with pytest.raises(InputError, match="three or more"):
        energy_drift(np.array([0.0, 1.0]), np.array([1.0, 1.0]), 1)


def test_the_inefficiency_of_correlated_noise_is_that_of_its_memory():
    rng = np.random.default_rng(1)
    assert statistical_inefficiency(correlated(rng, 100_000, 0.8)) == pytest.approx(9.0, rel=0.1)
    assert statistical_inefficiency(rng.standard_normal(100_000)) == pytest.approx(1.0, abs=0.05)
    assert statistical_inefficiency(np.ones(50)) == 1.0


def test_the_mean_interval_widens_with_memory():
    rng = np.random.default_rng(2)
    white, coloured = mean_with_interval(rng.standard_normal(10_000)), mean_with_interval(correlated(rng, 10_000, 0.9))
    assert white.half_width == pytest.approx(1.96 / 100, rel=0.1)
    assert coloured.half_width == pytest.approx(1.96 / 100 * 19**0.5, rel=0.3)


def test_temperature_counts_the_freedoms_it_is_given():
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 4]])
    atoms.set_momenta(np.full((2, 3), np.sqrt(atoms.get_masses()[0] * units.kB * 250)))
    assert temperature(atoms) == pytest.approx(250)
    assert temperature(atoms, 3) == pytest.approx(500)


def ideal_gas(seed: int, count: int = 200) -> Atoms:
    cell = np.array([[12.0, 0, 0], [2.0, 11.0, 0], [-1.0, 3.0, 13.0]])
    rng = np.random.default_rng(seed)
    symbols = ["Ar"] * (count // 2) + ["Kr"] * (count - count // 2)
    # a few cells away, as an unwrapped trajectory would be
    return Atoms(symbols, scaled_positions=rng.uniform(-2, 3, (count, 3)), cell=cell, pbc=True)


@pytest.mark.parametrize("pair", [None, ("Ar", "Kr"), ("Kr", "Kr")])
@pytest.mark.filterwarnings("ignore:.*closer than 0.4")
def test_an_ideal_gas_has_no_structure(pair):
    found = rdf([ideal_gas(seed) for seed in range(20)], r_max=4.9, bins=7, pair=pair)
    assert len(found.r) == 7
    np.testing.assert_allclose(found.value[1:], 1.0, atol=0.06)
    assert found.value[0] == pytest.approx(1.0, abs=0.25)


def test_a_crystal_has_its_shells():
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * (3, 3, 3)
    # 3.6 Å is the middle of a bin, not an edge
    found = rdf([atoms], r_max=5.3745, bins=537)
    peaks = found.r[found.value > 0]
    np.testing.assert_allclose(peaks, [3.6 / 2**0.5, 3.6, 3.6 * 1.5**0.5, 3.6 * 2**0.5], atol=0.01)
    coordination = (
        found.value * 4 * np.pi * found.r**2 * (found.r[1] - found.r[0]) * (len(atoms) - 1) / atoms.get_volume()
    )
    np.testing.assert_allclose(coordination[found.value > 0], [12, 6, 24, 12], rtol=0.01)


@pytest.mark.filterwarnings("ignore:.*closer than 0.4")
def test_rdf_beyond_half_the_cell_is_refused():
    gas = ideal_gas(0)
    heights = gas.get_volume() / np.array(
        [np.linalg.norm(np.cross(gas.cell[i - 2], gas.cell[i - 1])) for i in range(3)]
    )
    rdf([gas], r_max=heights.min() / 2 - 1e-6)
    with pytest.raises(InputError, match="half the smallest cell height"):
        rdf([gas], r_max=heights.min() / 2 + 1e-6)


def test_rdf_of_a_molecule_is_refused():
    with pytest.raises(InputError, match="needs a density"):
        rdf([molecule("H2O")], r_max=3.0)


def test_rdf_of_an_absent_element_is_refused():
    with pytest.raises(InputError, match="no such element in the frames, got Xe"):
        rdf([bulk("Cu", cubic=True) * (3, 3, 3)], r_max=3.0, pair=("Cu", "Xe"))


def test_bonds_of_ethanol_are_found_and_followed():
    first = molecule("CH3CH2OH")
    second = first.copy()
    second.positions *= 1.1
    bonds = bond_lengths([first, second])
    assert {name: lengths.shape for name, lengths in bonds.items()} == {
        "C-C": (2, 1),
        "C-H": (2, 5),
        "C-O": (2, 1),
        "H-O": (2, 1),
    }
    assert bonds["C-C"][0, 0] == pytest.approx(first.get_distance(0, 1), rel=1e-12)
    np.testing.assert_allclose(bonds["C-H"][1], 1.1 * bonds["C-H"][0])


def test_bonds_cross_the_cell_boundary():
    atoms = Atoms("H2", positions=[[0, 0, 0.1], [0, 0, 7.6]], cell=[8, 8, 8], pbc=True)
    assert bond_lengths([atoms])["H-H"][0, 0] == pytest.approx(0.5)


def test_mean_square_displacement_of_known_motions():
    rng = np.random.default_rng(3)
    lag = np.arange(60)
    velocity = rng.standard_normal((5, 3))
    flight = rng.standard_normal((5, 3)) + lag[:, None, None] * velocity
    np.testing.assert_allclose(
        mean_square_displacement(flight), lag**2 * (velocity**2).sum(axis=1).mean(), rtol=1e-8, atol=1e-8
    )
    walk = np.cumsum(rng.standard_normal((40, 4, 3)), axis=0)
    direct = [((walk[k:] - walk[: 40 - k]) ** 2).sum(axis=2).mean() for k in range(40)]
    np.testing.assert_allclose(mean_square_displacement(walk), direct, rtol=1e-9, atol=1e-9)
