"""`geomol bench symmetry`: one table from several configurations, on the screen and in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geomol.cli import main
from geomol.data import nbody


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two configurations of linear motion on a few bodies."""
    monkeypatch.setattr(nbody, "PARTS", {"train": (0, 10), "valid": (10, 5), "test": (15, 5)})
    monkeypatch.setitem(nbody.VARIANTS, "nbody/charged5", nbody.NBodyVariant(start=1, end=3, frequency=20))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOMOL_DATA", raising=False)
    configs = tmp_path / "configs"
    configs.mkdir()
    for name, rate in (("nbody-linear", 0.1), ("slow", 1e-6)):
        (configs / f"{name}.toml").write_text(
            f'name = "{name}"\ntask = "forecast"\ndata = {{ source = "nbody/charged5" }}\n'
            f'model = {{ name = "linear_motion" }}\noptimiser = {{ learning_rate = {rate} }}\n'
            "schedule = { minutes = 60, warmup_steps = 1 }\n"
            f'run = {{ folder = "{tmp_path}/runs", threads = 1, tensorboard = false, rotate = false }}\n'
        )
    return configs


def test_the_table_is_printed_and_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "here"
    command = ["bench", "symmetry", str(folder), "--epochs", "3", "--set", "run.batch_size=2", "--out", str(out)]
    assert main([*command, "--json", "-"]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures == json.loads((out / "table.json").read_text())
    assert [entry["name"] for entry in figures["entries"]] == ["nbody-linear", "slow"]
    assert [entry["published"] for entry in figures["entries"]] == [0.0819, None]
    assert figures["budget"] == "3 epochs"
    table = (out / "table.md").read_text()
    assert "| nbody-linear | linear_motion |" in table
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "nbody-linear" in printed.err or "linear" in printed.err
    assert json.loads((tmp_path / "runs" / "slow" / "config.json").read_text())["run"]["batch_size"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "1", "--minutes", "1"], "give --minutes or --epochs, not both"),
        (["--epochs", "1", "--seed", "2", "--seed", "2"], "names one seed twice"),
        (["--epochs", "1", "--set", "model.nam=3"], 'did you mean "name"'),
        (["--epochs", "1", "--set", "name=same"], "two runs of one name"),
    ],
)
def test_a_wrong_option_ends_in_one_line(
    options: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "symmetry", str(folder), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_found_before_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["bench", "symmetry", str(folder), "--epochs", "1", "--out", str(tmp_path / "file" / "in")]) == 74
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be made" in line
    assert not (tmp_path / "runs").exists()
