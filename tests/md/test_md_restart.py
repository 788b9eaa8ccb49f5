"""A simulation that was killed and continued leaves the same bytes as one that was not (check 31)."""

from __future__ import annotations

import random
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase.calculators.emt import EMT

from geomol.errors import GeomolWarning, OutputError, ResumeError
from geomol.md import GeomolCalculator, MDConfig, run_md
from geomol.md.resume import check_resumable

FILES = ("md.extxyz", "md.csv", "md.json")
ENSEMBLES = ("nve", "nvt-langevin", "nvt-bussi", "nvt-nose-hoover", "npt")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


class StopError(Exception):
    """Raised from the progress callback to end a session abruptly."""


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_interrupted_anywhere_the_files_are_the_same(pair_potential, crystal, cluster, tmp_path, ensemble):
    atoms = crystal if ensemble in ("nve", "npt") else cluster
    config = MDConfig(
        ensemble=ensemble, steps=40, timestep_fs=3.0, temperature_K=500, interval=4, log_interval=1,
        checkpoint_interval=7, seed=9,
    )  # fmt: skip

    def calculator() -> GeomolCalculator:
        return GeomolCalculator(pair_potential(cutoff=5.0), skin=0.3)

    run_md(atoms, calculator(), config, tmp_path / "whole")
    for stop in (3, 20, 28, 38):

        def interrupt(progress, stop=stop):
            if progress.step == stop:
                raise StopError

        with pytest.raises(StopError):
            run_md(atoms, calculator(), config, tmp_path / "parts", resume=True, on_progress=interrupt)
    run_md(atoms, calculator(), config, tmp_path / "parts", resume=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def kill_after(folder: Path, ensemble: str, steps: int, growth: int) -> bool:
    """Simulate in another process and kill it when the table has grown by so many bytes; whether it was at work."""
    command = [sys.executable, str(Path(__file__).with_name("md_target.py")), str(folder), ensemble, str(steps)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    table = folder / "md.csv"
    start = table.stat().st_size if table.exists() else 0
    while process.poll() is None and (table.stat().st_size if table.exists() else 0) < start + growth:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    code = process.wait()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def kill_and_compare(folder: Path, ensemble: str, steps: int, kills: int) -> None:
    """Kill at random moments, finish, and compare with a run in one piece."""
    rng = random.Random(f"{ensemble}{kills}")
    simulate = runpy.run_path(str(Path(__file__).with_name("md_target.py")))["simulate"]
    simulate(folder / "whole", ensemble, steps)
    size = (folder / "whole/md.csv").stat().st_size
    # below the expected advance per session, so that nearly every kill hits a run at work
    hits = [kill_after(folder / "killed", ensemble, steps, rng.randint(0, size // (kills + 1))) for _ in range(kills)]
    assert sum(hits) > kills / 2
    assert not (folder / "killed/md.json").exists() or not all(hits)
    simulate(folder / "killed", ensemble, steps)
    assert contents(folder / "killed") == contents(folder / "whole")


def test_a_killed_process_leaves_nothing_behind(tmp_path):
    kill_and_compare(tmp_path, "nvt-langevin", steps=200, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_twenty_kills_per_ensemble_leave_nothing_behind(tmp_path, ensemble):
    kill_and_compare(tmp_path, ensemble, steps=2000, kills=20)


def test_a_longer_run_continues_a_finished_one(cluster, tmp_path):
    config = MDConfig(ensemble="nvt-langevin", steps=60, interval=5, checkpoint_interval=25)
    run_md(cluster, EMT(), config, tmp_path / "whole")
    run_md(cluster, EMT(), config.model_copy(update={"steps": 35}), tmp_path / "parts")
    run_md(cluster, EMT(), config, tmp_path / "parts", resume=True)
    assert (tmp_path / "parts/md.csv").read_bytes() == (tmp_path / "whole/md.csv").read_bytes()
    again = run_md(cluster, EMT(), config, tmp_path / "parts", resume=True)
    assert again.ns_per_day == 0


def test_without_a_checkpoint_a_resumed_run_starts(cluster, tmp_path):
    config = MDConfig(ensemble="nve", steps=10)
    run_md(cluster, EMT(), config, tmp_path / "a", resume=True)
    run_md(cluster, EMT(), config, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_another_run_is_not_continued(cluster, tmp_path):
    config = MDConfig(ensemble="nve", steps=10)
    run_md(cluster, EMT(), config, tmp_path)
    with pytest.raises(ResumeError, match=r"timestep_fs: 0.5 → 1.0; seed: 0 → 3"):
        run_md(cluster, EMT(), MDConfig(ensemble="nve", steps=10, timestep_fs=1.0, seed=3), tmp_path, resume=True)
    with pytest.raises(ResumeError, match=r"longer already, expected steps >= 10, got 9"):
        run_md(cluster, EMT(), MDConfig(ensemble="nve", steps=9), tmp_path, resume=True)
    cluster.positions[0, 0] += 0.1
    with pytest.raises(ResumeError, match="structure: "):
        run_md(cluster, EMT(), config, tmp_path, resume=True)


def test_another_potential_is_not_continued(pair_potential, cluster, tmp_path):
    config = MDConfig(ensemble="nve", steps=10)
    run_md(cluster, GeomolCalculator(pair_potential()), config, tmp_path)
    with pytest.raises(ResumeError, match="potential: "):
        run_md(cluster, GeomolCalculator(pair_potential(depth=0.35)), config, tmp_path, resume=True)


def test_other_energies_at_the_checkpoint_are_noticed():
    check_resumable(-10.0, -10.0)
    with pytest.warns(GeomolWarning, match="not bit for bit"):
        check_resumable(-10.0, -10.0 + 1e-12)
    with pytest.raises(ResumeError, match="another energy at the checkpoint"):
        check_resumable(-10.0, -10.1)


def test_a_shortened_table_is_not_continued(cluster, tmp_path):
    config = MDConfig(ensemble="nve", steps=20, interval=1)
    run_md(cluster, EMT(), config, tmp_path)
    table = tmp_path / "md.csv"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(ResumeError, match=r"md\.csv: the file is shorter than at the checkpoint"):
        run_md(cluster, EMT(), config.model_copy(update={"steps": 30}), tmp_path, resume=True)


def test_output_that_cannot_be_written_is_an_output_error(cluster, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write") as caught:
        run_md(cluster, EMT(), MDConfig(ensemble="nve", steps=2), tmp_path / "file")
    assert caught.value.exit_code == 74


def test_a_full_disk_is_reported_and_the_checkpoint_is_intact(cluster, tmp_path):
    config = MDConfig(ensemble="nve", steps=40, interval=1, checkpoint_interval=10)
    run_md(cluster, EMT(), config, tmp_path / "whole")
    size = (tmp_path / "whole/md.extxyz").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # files cannot grow beyond half of what is needed
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
        with pytest.raises(OutputError, match=r"md\.(extxyz|csv): cannot write: File too large") as caught:
            run_md(cluster, EMT(), config, tmp_path / "parts")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 74
    run_md(cluster, EMT(), config, tmp_path / "parts", resume=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
