"""A finished cell is shown again only for the settings that it was made with."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from geomol.cli import main
from geomol.errors import GeomolWarning, ResumeError
from geomol.generate import SampleSettings
from geomol.study import CellResult, StudyResult, cells, load_study, run_study
from geomol.study.grid import Cell
from geomol.study.record import CellRecord
from geomol.train import parse_config
from geomol.train.lock import only_process

STUDY = """
name = "toy"
base = "nbody-linear.toml"
[[axis]]
name = "rate"
[axis.choices]
low = ["optimiser.learning_rate=0.01"]
high = []
"""


@pytest.fixture
def study(bodies: Callable[..., Path], tmp_path: Path) -> Path:
    """A study of two cells and its base, not run yet."""
    bodies("nbody-linear")
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "study.toml"


def run(file: Path, *, trained: list[str] | None = None) -> StudyResult:
    folder, names = file.parent, [] if trained is None else trained
    grid = cells(load_study(file), folder, folder=str(folder / "runs"))
    return run_study(load_study(file), grid, folder / "results", on_result=lambda done, name, found: names.append(name))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def record(study: Path, name: str = "low-seed0") -> Path:
    return study.parent / "results" / "cells" / f"{name}.json"


def test_a_cell_made_with_other_settings_is_refused_before_anything_is_trained(study: Path) -> None:
    first = run(study)
    shutil.rmtree(study.parent / "runs" / "toy")  # runs are large, and may be gone
    edit(study, "learning_rate=0.01", "learning_rate=0.02")
    record(study, "high-seed0").unlink()
    trained: list[str] = []
    with pytest.raises(ResumeError) as caught:
        run(study, trained=trained)
    text = str(caught.value)
    assert "cell low-seed0 was made with other settings (optimiser.learning_rate: 0.01 → 0.02)" in text
    assert str(record(study)) in text
    assert "another name and folder, or remove" in text
    assert (trained, "\n" in text) == ([], False)
    edit(study, "learning_rate=0.02", "learning_rate=0.01")
    assert run(study, trained=trained).cells[0] == first.cells[0]
    assert trained == ["high-seed0"]


def test_the_budget_of_the_base_is_compared_and_what_training_may_change_is_not(study: Path) -> None:
    first, base = run(study), study.parent / "nbody-linear.toml"
    edit(base, "threads = 1,", "threads = 2, save_every_minutes = 1, stop_after_minutes = 1e-9,")
    edit(study, "low =", "LOW =")  # another label of the same run
    again = run(study)
    assert [cell.figures for cell in again.cells] == [cell.figures for cell in first.cells]
    assert again.cells[0].choices == {"rate": "LOW"}
    edit(base, "epochs = 2", "epochs = 3")
    with pytest.raises(ResumeError, match=r"low-seed0 .*\(schedule.epochs: 2 → 3\)"):
        run(study)


def test_an_early_stop_leaves_no_run_unfinished(study: Path) -> None:
    edit(study.parent / "nbody-linear.toml", "threads = 1,", "threads = 1, stop_after_minutes = 1e-9,")
    assert [cell.epochs for cell in run(study).cells] == [2, 2]


@pytest.mark.parametrize("way", ["settings", "record"])
def test_a_run_with_other_settings_is_not_answered_with_options_of_another_command(study: Path, way: str) -> None:
    run(study)
    made = study.parent / "runs" / "toy" / "low-seed0"
    record(study).unlink()
    if way == "settings":
        edit(study, "learning_rate=0.01", "learning_rate=0.02")
    else:
        (made / "config.json").write_text("{")
    with pytest.raises(ResumeError, match="cell low-seed0") as caught:
        run(study)
    assert "--" not in str(caught.value)
    assert f"remove {made} to train" in str(caught.value)
    shutil.rmtree(made)
    trained: list[str] = []
    run(study, trained=trained)
    assert trained == ["low-seed0"]


def test_a_run_that_another_process_trains_is_not_to_be_removed(study: Path) -> None:
    with only_process(study.parent / "runs" / "toy" / "low-seed0"), pytest.raises(ResumeError) as caught:
        run(study)
    assert "another process is training" in str(caught.value)
    assert "remove" not in str(caught.value)


def test_cells_trained_on_different_data_are_not_compared(study: Path) -> None:
    first = run(study)
    assert {len(cell.data_sha256) for cell in first.cells} == {64}
    content = json.loads(record(study).read_text())
    content["data_sha256"] = "0" * 64
    record(study).write_text(json.dumps(content))
    with pytest.raises(ResumeError, match="cells low-seed0 and high-seed0 were trained on different data"):
        run(study)


def test_files_of_earlier_versions_are_read_and_said_to_be_unchecked_once(study: Path) -> None:
    first = run(study)
    for name in ("low-seed0", "high-seed0"):
        content = json.loads(record(study, name).read_text())
        del content["settings"]
        record(study, name).write_text(json.dumps(content))
    edit(study, "learning_rate=0.01", "learning_rate=0.02")
    with pytest.warns(GeomolWarning, match="2 of 2 finished cells .* could not be checked") as told:
        assert run(study) == first
    assert len(told) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"figures": {}}', '{"figures": 3, "minutes": 1, "epochs": 1}', "\xff"])
def test_a_spoilt_file_is_named(study: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", str(study), "--out", str(study.parent / "results"), "--runs", str(study.parent / "runs")]
    assert main(words) == 0
    good = record(study).read_bytes()
    record(study).write_bytes(text.encode("latin1"))
    capsys.readouterr()
    assert main(words) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "low-seed0.json: the record of a cell cannot be read" in told
    assert "remove this file" in told
    record(study).unlink()
    assert main(words) == 0  # measured again
    assert json.loads(record(study).read_bytes())["figures"] == json.loads(good)["figures"]


@pytest.mark.parametrize("task", ["generation", "forecast"])
def test_how_molecules_are_sampled_is_compared_where_they_are(task: str, tmp_path: Path) -> None:
    config = parse_config(
        {
            "name": "cell",
            "task": task,
            "data": {"source": "qm9" if task == "generation" else "nbody/charged5"},
            "model": {"name": "linear_motion"},
            "schedule": {"epochs": 1},
        }
    )
    cell = Cell(choices={"a": "b"}, seed=0, run=config)
    result = CellResult({"a": "b"}, 0, {"valid": 0.5, "evaluations": 7}, 1.0, 2.0, 3)
    CellRecord(tmp_path, cell, 500, SampleSettings(steps=50)).write(result)
    same = CellRecord(tmp_path, cell, 500, SampleSettings(steps=50, batch_size=8))
    other = CellRecord(tmp_path, cell, 100, SampleSettings(steps=20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same.read() == (result, True)
    if task == "forecast":
        assert other.read() == (result, True)
        return
    with pytest.raises(ResumeError, match=r"\(molecules: 500 → 100, sampling.steps: 50 → 20\)") as caught:
        other.read()
    assert f"or remove {other.path} to make" in str(caught.value)  # the run may stay
