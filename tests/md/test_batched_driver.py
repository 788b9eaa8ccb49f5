"""Runs of many replicas: their files, their restarts, and what happens when one of them breaks down."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import read

from geomol.errors import ConfigError, GeomolWarning, MDInstabilityError, ModelDomainError, OutputError, ResumeError
from geomol.md import GeomolCalculator, MDConfig, read_table
from geomol.md.batched import BatchResult, run_batched_md
from geomol.models.pair import Morse
from geomol.potential import Potential


@pytest.fixture
def calculator() -> GeomolCalculator:
    return GeomolCalculator(Potential(Morse(elements=[29], cutoff=5.0), elements=[29], e0=[-1.5]), skin=0.3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def broken(cluster: Atoms) -> Atoms:
    """A cluster whose atoms rush apart at a speed that no step can follow."""
    atoms = cluster.copy()
    atoms.set_momenta(np.sign(atoms.positions) * 70.0)
    return atoms


class StopError(Exception):
    """Raised from the progress callback to end a session abruptly."""


def test_there_is_a_trajectory_per_replica_and_a_row_per_replica_and_time(calculator, cluster, crystal, tmp_path):
    config = MDConfig(ensemble="nvt-langevin", steps=12, interval=4, log_interval=3, temperature_K=200, seed=2)
    result = run_batched_md([cluster, crystal], calculator, config, tmp_path, replicas=2)
    table = read_table(result.table)
    assert table["replica"].tolist() == [0, 1, 2, 3] * 5
    assert np.unique(table["time_fs"]).tolist() == [0.0, 1.5, 3.0, 4.5, 6.0]
    assert np.allclose(table["potential_eV"] + table["kinetic_eV"], table["total_eV"], rtol=0, atol=1e-12)
    assert [path.name for path in result.trajectories] == [f"md.replica-000{k}.extxyz" for k in range(4)]
    for k, path in enumerate(result.trajectories):
        frames = read(path, index=":")
        assert [atoms.info["step"] for atoms in frames] == [0, 4, 8, 12]
        assert np.array_equal(frames[-1].positions, result.atoms[k].positions)
        frames[-1].calc = calculator
        last = table["potential_eV"][table["replica"] == k][-1]
        assert frames[-1].get_potential_energy() == pytest.approx(last, abs=1e-9)
    assert result.summary["num_replicas"] == 4
    assert result.summary["replicas"][3]["degrees_of_freedom"] == 96
    assert result.stopped == []
    assert result.ns_per_day > 0


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin"])
def test_interrupted_anywhere_the_files_are_the_same(calculator, cluster, crystal, tmp_path, ensemble):
    config = MDConfig(
        ensemble=ensemble, steps=40, timestep_fs=3.0, temperature_K=500, interval=4, log_interval=1,
        checkpoint_interval=7, seed=9,
    )  # fmt: skip

    def run(folder: str, **options: object) -> BatchResult:
        return run_batched_md([cluster, crystal], calculator, config, tmp_path / folder, replicas=2, **options)

    run("whole")
    for stop in (3, 20, 38):

        def interrupt(progress, stop=stop):
            if progress.step == stop:
                raise StopError

        with pytest.raises(StopError):
            run("parts", resume=True, on_progress=interrupt)
    run("parts", resume=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert run("parts", resume=True).ns_per_day == 0


TARGET = Path(__file__).with_name("batched_target.py")


def test_a_killed_process_leaves_nothing_behind(tmp_path):
    spec = importlib.util.spec_from_file_location("geomol_batched_target", TARGET)
    assert spec is not None
    assert spec.loader is not None
    target = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(target)
    process = subprocess.Popen(
        [sys.executable, str(TARGET), str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    states, deadline = tmp_path / "killed/md.state", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not list(states.glob("state.safetensors")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/md.json").exists()
    for folder in ("killed", "whole"):
        target.simulate(tmp_path / folder)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_replica_that_breaks_down_is_named_and_the_others_go_on(calculator, cluster, tmp_path):
    cluster.set_momenta(np.zeros((6, 3)))
    config = MDConfig(
        ensemble="nve", steps=30, timestep_fs=2.0, interval=5, log_interval=1, momenta="keep", checkpoint_interval=10,
        max_temperature_K=1e9, max_energy_jump_eV=1.0,
    )  # fmt: skip
    frames = [cluster, broken(cluster), cluster]
    with pytest.warns(GeomolWarning, match=r"replica 1, step \d+ .*; the other replicas go on"):
        result = run_batched_md(frames, calculator, config, tmp_path / "a")
    (stopped,) = result.stopped
    assert stopped.replica == 1
    assert 10 < stopped.step <= 20  # between two checkpoints
    assert (tmp_path / "a/md.replica-0001.last_good.extxyz").exists()
    assert read(tmp_path / "a/md.replica-0001.last_good.extxyz").info["step"] == stopped.step - 1
    table = read_table(result.table)
    assert (table["replica"] == 1).sum() == stopped.step
    assert (table["replica"] == 0).sum() == 31
    assert result.summary["num_stopped"] == 1
    assert stopped.reason == result.summary["replicas"][1]["stopped"]
    # the others are what they are without it
    alone = run_batched_md([cluster, cluster], calculator, config, tmp_path / "b")
    for one, other in zip([result.atoms[0], result.atoms[2]], alone.atoms, strict=True):
        assert np.abs(one.positions - other.positions).max() < 1e-12

    # and an interrupted run goes on without it
    def interrupt(progress):
        if progress.step == 25:
            raise StopError

    with pytest.warns(GeomolWarning, match="go on"), pytest.raises(StopError):
        run_batched_md(frames, calculator, config, tmp_path / "c", on_progress=interrupt)
    run_batched_md(frames, calculator, config, tmp_path / "c", resume=True)
    assert contents(tmp_path / "c") == contents(tmp_path / "a")


def test_without_any_replica_left_it_is_an_error(calculator, cluster, tmp_path):
    config = MDConfig(ensemble="nve", steps=30, timestep_fs=2.0, momenta="keep", max_temperature_K=1e9)
    with pytest.raises(MDInstabilityError, match="no replica is left: replica 1, step"):
        run_batched_md([broken(cluster)] * 2, calculator, config, tmp_path)
    assert (tmp_path / "md.replica-0000.last_good.extxyz").exists()


def test_guards_say_what_they_say_of_a_single_run(calculator, cluster, tmp_path):
    hot = MDConfig(steps=30, temperature_K=300, max_temperature_K=350, seed=1)
    with pytest.raises(MDInstabilityError, match="temperature ran away, expected at most 350 K"):
        run_batched_md(cluster, calculator, hot, tmp_path / "hot", temperatures_K=[3000])
    lost = cluster.copy()
    lost.set_momenta([[300.0, 0, 0], *[[0, 0, 0]] * 5])
    loose = MDConfig(
        ensemble="nve", steps=300, timestep_fs=5.0, momenta="keep", max_temperature_K=1e9, max_energy_jump_eV=1e3,
        max_energy_drift_eV_per_atom=1e3, max_force_eV_per_A=1e9,
    )  # fmt: skip
    with pytest.raises(MDInstabilityError, match="an atom escaped, expected a neighbour within 8 Å"):
        run_batched_md(lost, calculator, loose, tmp_path / "lost")


def test_another_run_is_not_continued(calculator, cluster, tmp_path):
    config = MDConfig(ensemble="nve", steps=4)
    run_batched_md(cluster, calculator, config, tmp_path, replicas=2)
    with pytest.raises(ConfigError, match="an earlier run here"):
        run_batched_md(cluster, calculator, config, tmp_path, replicas=2)
    with pytest.raises(ResumeError, match=r"replicas: 2 → 3"):
        run_batched_md(cluster, calculator, config, tmp_path, replicas=3, resume=True)
    with pytest.raises(ResumeError, match="temperatures_and_seeds"):
        run_batched_md(cluster, calculator, config, tmp_path, replicas=2, temperatures_K=[1, 2], resume=True)
    with pytest.raises(ResumeError, match="longer already"):
        run_batched_md(cluster, calculator, MDConfig(ensemble="nve", steps=3), tmp_path, replicas=2, resume=True)
    (tmp_path / "md.replica-0001.extxyz").write_bytes(b"")
    with pytest.raises(ResumeError, match="shorter than at the checkpoint"):
        run_batched_md(cluster, calculator, MDConfig(ensemble="nve", steps=6), tmp_path, replicas=2, resume=True)
    run_batched_md(cluster, calculator, config, tmp_path, replicas=1, overwrite=True)
    assert not (tmp_path / "md.replica-0001.extxyz").exists()


def test_settings_that_do_not_fit_are_refused(calculator, cluster, tmp_path):
    config = MDConfig(steps=4)

    def run(atoms, settings=config, **options):
        run_batched_md(atoms, calculator, settings, tmp_path, **options)

    with pytest.raises(ConfigError, match="fewer ensembles, expected nve or nvt-langevin, got npt"):
        run(cluster, MDConfig(ensemble="npt", steps=4))
    with pytest.raises(ConfigError, match="`temperatures_K` needs one value per replica, expected 2, got 3"):
        run(cluster, replicas=2, temperatures_K=[1, 2, 3])
    with pytest.raises(ConfigError, match="a temperature is out of range"):
        run(cluster, replicas=2, temperatures_K=[1, -2])
    with pytest.raises(ConfigError, match="nothing to simulate"):
        run(cluster, replicas=0)
    with pytest.raises(ConfigError, match="thermostat needs a temperature"):
        run(cluster, replicas=2, temperatures_K=[300, 0])
    with pytest.raises(ConfigError, match="at_once"):
        run(cluster, at_once=0)
    fixed = cluster.copy()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigError, match="know no constraints"):
        run([cluster, fixed])
    with pytest.raises(ModelDomainError, match="structure 1, atom 0: the model does not know this element"):
        run([cluster, Atoms("HCu", positions=[[0, 0, 0], [0, 0, 2]])])
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        run_batched_md(cluster, calculator, config, tmp_path / "file")
