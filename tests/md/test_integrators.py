"""The dynamics is right: order, reversibility, ensembles (checks 24, 25, 26)."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from scipy import stats

from geomol.md import GeomolCalculator, MDConfig, read_table, run_md
from geomol.md.integrators import degrees_of_freedom, draw_momenta, remove_motion


class Springs(Calculator):
    """A spring between every pair of atoms, E = ½ k Σ (r − r0)²: cheap, and far from harmonic as a whole."""

    implemented_properties = ("energy", "forces")

    def __init__(self, k: float = 2.0, r0: float = 2.0) -> None:
        super().__init__()
        self.k, self.r0 = k, r0

    def check_state(self, atoms, tol=0.0):
        # ASE's comparison takes longer than these forces
        same = self.atoms is not None and np.array_equal(self.atoms.positions, atoms.positions)
        return [] if same else list(all_changes)

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        vec = atoms.positions[:, None] - atoms.positions[None]
        r = np.linalg.norm(vec, axis=-1) + np.eye(len(atoms))
        stretch = (r - self.r0) * (1 - np.eye(len(atoms)))
        self.results = {
            "energy": 0.25 * self.k * float((stretch**2).sum()),
            "forces": -self.k * ((stretch / r)[..., None] * vec).sum(axis=1),
        }


def tetrahedron() -> Atoms:
    pos = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * (2.0 / 8**0.5)
    return Atoms("C2O2", positions=pos)


def fluctuation(atoms, calculator, folder, timestep: float) -> float:
    # the same stretch of the same trajectory
    config = MDConfig(
        ensemble="nve", timestep_fs=timestep, steps=round(600 / timestep), interval=1000, log_interval=1, seed=4
    )
    return float(read_table(run_md(atoms, calculator, config, folder).table)["total_eV"].std())


def test_energy_fluctuation_falls_by_four_when_the_step_halves(pair_potential, cluster, tmp_path):
    calculator = GeomolCalculator(pair_potential(cutoff=8.0))
    coarse, middle, fine = (fluctuation(cluster, calculator, tmp_path / str(dt), dt) for dt in (4.0, 2.0, 1.0))
    assert coarse / middle == pytest.approx(4, abs=0.4)
    assert middle / fine == pytest.approx(4, abs=0.4)


def test_the_trajectory_runs_backwards(pair_potential, cluster, tmp_path):
    calculator = GeomolCalculator(pair_potential(cutoff=8.0))
    config = MDConfig(ensemble="nve", timestep_fs=2.0, steps=1000, interval=1000)
    there = run_md(cluster, calculator, config, tmp_path / "there").atoms
    assert np.abs(there.positions - cluster.positions).max() > 0.1
    there.set_momenta(-there.get_momenta())
    back = run_md(there, calculator, MDConfig(**{**config.model_dump(), "momenta": "keep"}), tmp_path / "back").atoms
    assert np.abs(back.positions - cluster.positions).max() < 1e-8


@pytest.mark.parametrize("ensemble", ["nvt-langevin", "nvt-bussi", "nvt-nose-hoover"])
def test_thermostats_sample_the_kinetic_energy_of_their_freedoms(ensemble, tmp_path):
    """2 E_kin / kT is χ² with as many freedoms as are thermal; a count of 3N would be off by a factor of two here."""
    atoms = tetrahedron()
    config = MDConfig(
        ensemble=ensemble,
        steps=6000,
        timestep_fs=1.0,
        temperature_K=300,
        friction_per_ps=30,
        # so small a system needs a tight chain to be ergodic
        thermostat_fs=10,
        log_interval=10,
        interval=10_000,
        seed=1,
    )
    run = run_md(atoms, Springs(), config, tmp_path)
    freedoms = 12 if ensemble == "nvt-langevin" else 6
    assert run.summary["degrees_of_freedom"] == freedoms
    mean, interval = run.summary["temperature_K_mean"], run.summary["temperature_K_mean_95"]
    assert interval < 40
    assert abs(mean - 300) < 1.5 * interval
    # the width of the distribution, √(2 / freedoms), tells a canonical ensemble from a rescaled one
    spread = run.summary["temperature_K_std"] / 300
    assert spread == pytest.approx((2 / freedoms) ** 0.5, rel=0.15)


def test_langevin_kinetic_energies_follow_the_chi_square_distribution(tmp_path):
    config = MDConfig(steps=8000, timestep_fs=1.0, friction_per_ps=100, log_interval=50, interval=20_000, seed=2)
    table = read_table(run_md(tetrahedron(), Springs(), config, tmp_path).table)
    reduced = 2 * table["kinetic_eV"][10:] / (units.kB * 300)
    assert stats.kstest(reduced, stats.chi2(12).cdf).pvalue > 0.001
    # control: the test sees a temperature that is off by a fifth
    assert stats.kstest(1.2 * reduced, stats.chi2(12).cdf).pvalue < 0.001


def test_constant_pressure_moves_the_volume_to_the_pressure(pair_potential, crystal, tmp_path):
    calculator = GeomolCalculator(pair_potential(cutoff=5.0))
    config = MDConfig(
        ensemble="npt",
        steps=700,
        timestep_fs=5.0,
        temperature_K=300,
        pressure_GPa=5.0,
        barostat_fs=150,
        log_interval=5,
        interval=2000,
    )
    table = read_table(run_md(crystal, calculator, config, tmp_path).table)
    late = slice(40, None)
    assert table["pressure_GPa"][late].mean() == pytest.approx(5.0, abs=0.7)
    assert table["temperature_K"][late].mean() == pytest.approx(300, abs=50)
    assert abs(table["volume_A3"][0] - table["volume_A3"][late].mean()) > 5
    assert np.ptp(table["volume_A3"][late]) > 1


def test_initial_momenta_are_maxwell_boltzmann_without_motion_of_the_whole():
    atoms = molecule("CH3CH2OH")
    energies = []
    for seed in range(400):
        draw_momenta(atoms, MDConfig(ensemble="nve", temperature_K=500), np.random.default_rng(seed))
        energies.append(atoms.get_kinetic_energy())
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-10
    assert degrees_of_freedom(atoms, "nve") == 21
    reduced = 2 * np.array(energies) / (units.kB * 500)
    assert stats.kstest(reduced, stats.chi2(21).cdf).pvalue > 0.001


@pytest.mark.parametrize(("name", "freedoms"), [("H2", 1), ("CO2", 4), ("H2O", 3), ("Ar", 3)])
def test_freedoms_of_linear_molecules_and_atoms(name, freedoms):
    atoms = Atoms("Ar") if name == "Ar" else molecule(name)
    assert degrees_of_freedom(atoms, "nve") == freedoms
    atoms.set_momenta(np.random.default_rng(0).standard_normal((len(atoms), 3)))
    remove_motion(atoms, rotation=True)
    assert np.isfinite(atoms.get_momenta()).all()
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-10


def test_exact_temperature_is_exact(tmp_path):
    config = MDConfig(ensemble="nve", steps=1, temperature_K=321, exact_temperature=True, interval=1)
    assert read_table(run_md(tetrahedron(), Springs(), config, tmp_path).table)["temperature_K"][0] == pytest.approx(
        321
    )


def test_ase_reads_the_trajectory_to_the_last_digit(tmp_path):
    config = MDConfig(ensemble="nve", steps=40, interval=20, log_interval=10)
    result = run_md(tetrahedron(), Springs(), config, tmp_path)
    frames = read(result.trajectory, index=":")
    assert [frame.info["step"] for frame in frames] == [0, 20, 40]
    assert [frame.info["time_fs"] for frame in frames] == [0.0, 10.0, 20.0]
    assert np.array_equal(frames[-1].positions, result.atoms.positions)
    assert np.array_equal(frames[-1].get_momenta(), result.atoms.get_momenta())
    assert np.array_equal(frames[-1].get_forces(), result.atoms.get_forces())
    assert frames[-1].get_potential_energy() == result.atoms.get_potential_energy()
    table = read_table(result.table)
    assert list(table) == ["time_fs", "temperature_K", "potential_eV", "kinetic_eV", "total_eV"]
    assert table["time_fs"].tolist() == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert table["potential_eV"][-1] == result.atoms.get_potential_energy()


def test_progress_comes_with_speed_and_remaining_time(tmp_path):
    seen = []
    config = MDConfig(ensemble="nve", steps=30, interval=10)
    run_md(tetrahedron(), Springs(), config, tmp_path, on_progress=seen.append)
    assert [p.step for p in seen] == [10, 20, 30]
    assert all(p.ns_per_day > 0 for p in seen)
    assert seen[0].eta_s > 0
    assert seen[-1].eta_s == 0
