"""Relaxation ends where the forces vanish, and says whether it did."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read

from geomol.errors import ConfigError, OutputError
from geomol.md import GeomolCalculator, MDConfig, relax, run_md


@pytest.mark.parametrize("optimiser", ["bfgs", "fire"])
def test_a_pair_relaxes_to_the_minimum_of_its_well(pair_potential, optimiser):
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.5]])
    start = atoms.copy()
    result = relax(atoms, GeomolCalculator(pair_potential(cutoff=1e6)), fmax=1e-4, steps=200, optimiser=optimiser)
    assert result.converged
    assert result.fmax <= 1e-4
    assert result.atoms.get_distance(0, 1) == pytest.approx(2.87, abs=1e-3)
    assert result.energy == pytest.approx(2 * -1.5 - 0.34, abs=1e-6)
    assert atoms == start


def test_running_out_of_steps_is_said(cluster):
    result = relax(cluster, EMT(), fmax=1e-6, steps=2)
    assert not result.converged
    assert result.steps == 2
    assert result.fmax > 1e-6


def test_a_cell_relaxes_to_zero_stress_at_the_same_lattice_constant_as_a_scan(pair_potential):
    calculator = GeomolCalculator(pair_potential(cutoff=5.0))
    strained = bulk("Cu", "fcc", a=3.7, cubic=True)
    strained.set_cell(strained.cell.array @ np.array([[1, 0.02, 0], [0, 1.03, 0], [0, 0, 0.98]]), scale_atoms=True)
    result = relax(strained, calculator, fmax=1e-4, cell=True)
    assert result.converged
    assert np.abs(result.atoms.get_stress()).max() < 1e-4
    energies, scan = [], np.linspace(3.5, 4.3, 161)
    for a in scan:
        trial = bulk("Cu", "fcc", a=a, cubic=True)
        trial.calc = calculator
        energies.append(trial.get_potential_energy())
    assert result.atoms.get_volume() ** (1 / 3) == pytest.approx(scan[int(np.argmin(energies))], abs=0.004)
    # control: without the cell the stress stays
    assert np.abs(relax(strained, calculator, fmax=1e-4).atoms.get_stress()).max() > 1e-3


def test_the_trajectory_holds_every_step(cluster, tmp_path):
    result = relax(cluster, EMT(), fmax=0.05, trajectory=tmp_path / "relax.traj")
    frames = read(tmp_path / "relax.traj", index=":")
    assert len(frames) == result.steps + 1
    assert np.array_equal(frames[-1].positions, result.atoms.positions)


def test_settings_out_of_range_are_refused(cluster):
    with pytest.raises(ConfigError, match="fmax must be positive"):
        relax(cluster, EMT(), fmax=0)
    with pytest.raises(ConfigError, match="must not be negative"):
        relax(cluster, EMT(), steps=-1)
    with pytest.raises(ConfigError, match="unknown optimiser"):
        relax(cluster, EMT(), optimiser="newton")
    with pytest.raises(ConfigError, match="only be relaxed where there is one"):
        relax(molecule("H2O"), EMT(), cell=True)


def test_a_trajectory_that_cannot_be_written_is_an_output_error(cluster, tmp_path):
    with pytest.raises(OutputError, match="cannot write the trajectory"):
        relax(cluster, EMT(), trajectory=tmp_path / "missing" / "relax.traj")


def test_a_potential_or_its_name_serves_as_calculator(pair_potential, cluster, tmp_path):
    potential = pair_potential()
    named = relax(cluster, potential, 0.05)
    assert named.energy == relax(cluster, GeomolCalculator(potential), 0.05).energy
    config = MDConfig(ensemble="nve", steps=2)
    one = run_md(cluster, potential, config, tmp_path / "a").atoms
    other = run_md(cluster, GeomolCalculator(potential), config, tmp_path / "b").atoms
    assert np.array_equal(one.positions, other.positions)
    assert relax(cluster, "copper-emt", steps=0).steps == 0
