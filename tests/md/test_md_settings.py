"""Settings of a simulation: closed, in range, and fitting the structure (row 48 of the bad-input table)."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from geomol.errors import ConfigError, GeomolWarning
from geomol.md import MDConfig, run_md


@pytest.mark.parametrize("timestep", [0, -0.5, float("nan"), float("inf")])
def test_a_time_step_that_is_no_positive_time_is_refused(timestep):
    with pytest.raises(ConfigError, match=r"timestep_fs: .*got (0|-0.5|nan|inf)"):
        MDConfig(timestep_fs=timestep)


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match=r'unknown setting "temprature_K"; did you mean "temperature_K"'):
        MDConfig(temprature_K=300)


def test_all_faults_are_listed_at_once():
    with pytest.raises(ConfigError, match=r"ensemble: .*; steps: .*; temperature_K: "):
        MDConfig(ensemble="nvt", steps=0, temperature_K=-1)


def test_a_name_cannot_leave_the_folder():
    with pytest.raises(ConfigError, match="name"):
        MDConfig(name="../md")


def test_more_than_two_femtoseconds_with_hydrogen_warns(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.1]])
    config = MDConfig(ensemble="nve", timestep_fs=2.5, steps=1, temperature_K=0)
    calculator = LennardJones(sigma=1.0, epsilon=0.001)
    with pytest.warns(GeomolWarning, match="too long for hydrogen"):
        run_md(atoms, calculator, config, tmp_path / "a")
    run_md(atoms, calculator, config.model_copy(update={"timestep_fs": 2.0}), tmp_path / "b")
    atoms.numbers[:] = 18
    run_md(atoms, calculator, config, tmp_path / "c")


def test_constant_pressure_needs_a_periodic_structure(tmp_path, cluster):
    with pytest.raises(ConfigError, match="periodic in three directions"):
        run_md(cluster, EMT(), MDConfig(ensemble="npt", steps=1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_thermostat_needs_a_temperature(tmp_path, cluster):
    with pytest.raises(ConfigError, match="thermostat needs a temperature"):
        run_md(cluster, EMT(), MDConfig(ensemble="nvt-bussi", temperature_K=0, steps=1), tmp_path)


def test_constraints_are_refused_where_the_integrator_ignores_them(tmp_path, cluster):
    cluster.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigError, match="does not support constraints"):
        run_md(cluster, EMT(), MDConfig(ensemble="nvt-nose-hoover", steps=1), tmp_path)


def test_fixed_atoms_stay_in_a_simulation(tmp_path, cluster):
    cluster.set_constraint(FixAtoms([0]))
    before = cluster.copy()
    for ensemble in ("nve", "nvt-langevin", "nvt-bussi"):
        result = run_md(cluster, EMT(), MDConfig(ensemble=ensemble, steps=20), tmp_path / ensemble)
        assert np.array_equal(result.atoms.positions[0], cluster.positions[0])
        assert np.abs(result.atoms.positions[1:] - cluster.positions[1:]).min() > 1e-5
        assert result.summary["degrees_of_freedom"] == 15
    assert cluster == before


def test_an_earlier_run_is_not_overwritten_unasked(tmp_path, cluster):
    config = MDConfig(ensemble="nve", steps=5)
    run_md(cluster, EMT(), config, tmp_path)
    table = (tmp_path / "md.csv").read_bytes()
    with pytest.raises(ConfigError, match=r"earlier run here, got .*md\.extxyz; ask to resume or to overwrite"):
        run_md(cluster, EMT(), config, tmp_path)
    assert (tmp_path / "md.csv").read_bytes() == table
    run_md(cluster, EMT(), config.model_copy(update={"seed": 1}), tmp_path, overwrite=True)
    assert (tmp_path / "md.csv").read_bytes() != table
