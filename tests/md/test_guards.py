"""Simulations that leave the physical domain are stopped, healthy ones are not (row 49, check 28)."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import read

from geomol.errors import InputError, MDInstabilityError
from geomol.md import GeomolCalculator, MDConfig, run_md


class FailsAt(EMT):
    """EMT that does something bad at a chosen evaluation."""

    def __init__(self, call: int, what: str) -> None:
        super().__init__()
        self.calls, self.call, self.what = 0, call, what

    def calculate(self, *args):
        super().calculate(*args)
        self.calls += 1
        if self.calls >= self.call:
            self.break_down()

    def break_down(self) -> None:
        if self.what == "nan":
            self.results["forces"][2, 1] = np.nan
        elif self.what == "nan energy":
            self.results["energy"] = np.nan
        elif self.what == "force":
            self.results["forces"][3] += [0, 1000, 0]
        elif self.what == "energy":
            self.results["energy"] += 2.0
        elif self.what == "refusal":
            raise InputError("atoms 0 and 1 coincide")
        elif self.what == "bug":
            raise KeyError("a bug")


def last_good(folder) -> Atoms:
    frame = read(folder / "md.last_good.extxyz")
    assert np.isfinite(frame.positions).all()
    assert np.isfinite(frame.get_forces()).all()
    return frame


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("nan", r"atom 2 \(Cu\): a force is not finite"),
        ("nan energy", "the energy is not finite"),
        ("force", r"atom 3 \(Cu\): a force ran away, expected at most 100 eV/Å, got 100[0-9] eV/Å"),
        ("energy", "the total energy (jumped|drifted away)"),
        ("refusal", "the structure broke down, .*atoms 0 and 1 coincide"),
    ],
)
def test_a_fault_stops_the_run_at_its_step_with_the_frame_before(cluster, tmp_path, what, text):
    config = MDConfig(ensemble="nve", steps=50, interval=1)
    # the first evaluation is that of step 0
    with pytest.raises(MDInstabilityError, match=rf"step 7 \(3.5 fs\).*{text}") as caught:
        run_md(cluster, FailsAt(8, what), config, tmp_path)
    assert caught.value.exit_code == 3
    assert "last good frame (step 6)" in str(caught.value)
    assert "\n" not in str(caught.value)
    frame = last_good(tmp_path)
    assert frame.info["step"] == 6
    good = run_md(cluster, EMT(), config.model_copy(update={"steps": 6}), tmp_path / "good")
    assert np.array_equal(frame.positions, good.atoms.positions)
    assert np.array_equal(frame.get_momenta(), good.atoms.get_momenta())
    assert len(read(tmp_path / "md.extxyz", index=":")) == 7


def test_other_errors_of_a_calculator_pass_as_they_are(cluster, tmp_path):
    with pytest.raises(KeyError, match="a bug"):
        run_md(cluster, FailsAt(8, "bug"), MDConfig(ensemble="nve", steps=50), tmp_path)


def test_bad_forces_at_the_start_are_step_zero(cluster, tmp_path):
    with pytest.raises(MDInstabilityError, match=r"step 0 .*a force is not finite"):
        run_md(cluster, FailsAt(1, "nan"), MDConfig(steps=50), tmp_path)


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin", "nvt-bussi", "nvt-nose-hoover"])
def test_a_time_step_twenty_times_too_long_is_stopped(cluster, tmp_path, ensemble):
    config = MDConfig(ensemble=ensemble, steps=2000, timestep_fs=100.0, temperature_K=900, friction_per_ps=1.0)
    with pytest.raises(MDInstabilityError):
        run_md(cluster, EMT(), config, tmp_path)
    last_good(tmp_path)


def test_overlapping_atoms_are_stopped(cluster, tmp_path):
    cluster.positions[1] = cluster.positions[0] + [0.3, 0, 0]
    with pytest.raises(MDInstabilityError):
        run_md(cluster, LennardJones(sigma=2.3, epsilon=0.4), MDConfig(ensemble="nve", steps=100), tmp_path)
    last_good(tmp_path)


def test_a_hot_start_is_stopped_by_the_temperature(cluster, tmp_path):
    limit = MDConfig(temperature_K=300, max_temperature_K=2000, steps=50, momenta="keep")
    cluster.set_momenta(np.sqrt(cluster.get_masses()[:, None] * units.kB * 5000) * np.ones((6, 3)))
    with pytest.raises(MDInstabilityError, match="the temperature ran away, expected at most 2000 K"):
        run_md(cluster, EMT(), limit, tmp_path)


def test_an_escaping_atom_is_named(cluster, tmp_path):
    cluster.set_momenta(np.zeros((6, 3)))
    momenta = cluster.get_momenta()
    momenta[4] = [0, 0, 45]
    cluster.set_momenta(momenta)
    config = MDConfig(ensemble="nve", steps=3000, timestep_fs=2.0, momenta="keep", max_temperature_K=1e5)
    with pytest.raises(MDInstabilityError, match=r"atom 4 \(Cu\): an atom escaped, expected a neighbour within 8 Å"):
        run_md(cluster, EMT(), config, tmp_path)
    frame = last_good(tmp_path)
    distances = np.linalg.norm(np.delete(frame.positions, 4, axis=0) - frame.positions[4], axis=1)
    assert 7.5 < distances.min() <= 8.0


def test_a_dilute_gas_is_not_an_escape(tmp_path):
    gas = Atoms("Ar3", positions=[[0, 0, 0], [0, 0, 20], [0, 20, 0]])
    run_md(gas, LennardJones(sigma=3.4, epsilon=0.01), MDConfig(ensemble="nve", steps=50), tmp_path)


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin", "nvt-bussi", "nvt-nose-hoover"])
@pytest.mark.parametrize("kelvin", [50, 900])
def test_healthy_clusters_are_not_stopped(pair_potential, cluster, tmp_path, ensemble, kelvin):
    config = MDConfig(ensemble=ensemble, temperature_K=kelvin, steps=150, timestep_fs=3.0)
    result = run_md(cluster, GeomolCalculator(pair_potential(cutoff=8.0)), config, tmp_path)
    assert result.summary["time_ps"] == pytest.approx(0.45)
    assert not (tmp_path / "md.last_good.extxyz").exists()


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin", "npt"])
def test_healthy_crystals_are_not_stopped(pair_potential, crystal, tmp_path, ensemble):
    config = MDConfig(ensemble=ensemble, temperature_K=800, steps=150, timestep_fs=4.0)
    run_md(crystal, GeomolCalculator(pair_potential(cutoff=5.0)), config, tmp_path)
    assert not (tmp_path / "md.last_good.extxyz").exists()
