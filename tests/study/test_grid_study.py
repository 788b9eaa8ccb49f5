"""Studies: grids of choices that are checked first, run once, and summed up in words that follow from the numbers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geomol.cli import main
from geomol.errors import ConfigError, InputError
from geomol.study import (
    CellResult,
    StudyResult,
    cells,
    fit_power_law,
    load_study,
    outcome,
    power_laws,
    run_study,
    sentences,
    study_figures,
    study_table,
)
from geomol.train.lock import only_process

ROOT = Path(__file__).parents[2]

BASE = """
name = "base"
task = "forecast"
[data]
source = "nbody/charged5"
num_train = 40
[model]
name = "linear_motion"
[schedule]
epochs = 1
[run]
batch_size = 20
threads = 1
"""

STUDY = """
name = "toy"
question = "Does anything matter?"
base = "base.toml"
seeds = [0, 1]
[[axis]]
name = "turning"
[axis.choices]
no = ["run.rotate=false"]
yes = ["run.rotate=true"]
[[axis]]
name = "data"
numeric = true
[axis.choices]
20 = ["data.num_train=20"]
40 = ["data.num_train=40"]
"""


def write(folder: Path, text: str = STUDY) -> Path:
    (folder / "base.toml").write_text(BASE)
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def test_the_grid_is_the_product_of_its_axes_and_seeds_without_what_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path)
    grid = cells(load_study(path), tmp_path)
    assert len(grid) == 2 * 2 * 2
    assert {(c.choices["turning"], c.run.run.rotate) for c in grid} == {("no", False), ("yes", True)}
    assert {c.run.data.num_train for c in grid} == {20, 40}
    assert len({c.run.run_dir for c in grid}) == 8
    skip = 'skip = [{turning = "yes", data = "20"}]'
    fewer = write(tmp_path, STUDY.replace("seeds = [0, 1]", f"seeds = [0, 1]\n{skip}"))
    assert len(cells(load_study(fewer), tmp_path)) == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("run.rotate=true", "run.rotat=true", "cell yes-20-seed0.*unknown key"),
        ('20 = ["data.num_train=20"]', 'few = ["data.num_train=20"]', "is no number"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "a seed is named twice"),
        ('name = "data"', 'name = "turning"', "two axes of one name"),
        ('base = "base.toml"', 'base = "bas.toml"', "does not exist"),
        ("numeric = true", "numeri = true", "Extra inputs"),
        ("seeds = [0, 1]", 'skip = [{turning = "maybe"}]', "no choice"),
        ("name = ", "name : ", "not a TOML file"),
        ('20 = ["data.num_train=20"]', 'nan = ["data.num_train=20"]', '"nan" is no number'),
        ('name = "toy"', 'name = ".."', "name: String should match"),
        ('name = "toy"', 'name = "a/b"', "name: String should match"),
        ("run.rotate=true", "run.seed=5", 'axis "turning", "yes": run.seed: set by the study itself'),
        ("run.rotate=true", "run={seed=5}", "run.seed: set by the study itself"),
        ("run.rotate=true", "name=foo", "name: set by the study itself"),
        ("seeds = [0, 1]", 'budget = ["run.folder=x"]', "budget: run.folder: set by the study itself"),
        ("seeds = [0, 1]", 'budget = ["run.rotate=true"]', "run.rotate: set by its budget for all cells"),
    ],
)
def test_faults_are_found_before_anything_is_trained(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, STUDY.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        cells(load_study(path), tmp_path)


def made(
    scores: dict[tuple[str, str], list[float]], task: str = "forecast", score: str = "position_mse"
) -> StudyResult:
    rows = [
        CellResult({"way": way, "size": size}, seed, {score: value}, 1.0, 2.0, 3)
        for (way, size), values in scores.items()
        for seed, value in enumerate(values)
    ]
    axes = {"way": sorted({w for w, _ in scores}), "size": sorted({s for _, s in scores}, key=float)}
    return StudyResult("made", "?", task, score, axes, ("size",), rows)


SIZES = (100, 200, 400, 800, 1600)


def test_a_power_law_is_recovered_with_an_interval_that_mostly_holds_it() -> None:
    size = np.repeat(np.array(SIZES, dtype=float), 3)
    rng = np.random.default_rng(0)
    laws = [fit_power_law(size, 7.0 * size**-0.4 * np.exp(0.05 * rng.normal(size=len(size)))) for _ in range(40)]
    assert np.mean([law.low < 0.4 < law.high for law in laws]) > 0.8  # nominally 0.95; few points make it narrower
    assert np.mean([law.low < 0.35 < law.high for law in laws]) < 0.5  # the control: another exponent is not held
    assert np.mean([law.exponent for law in laws]) == pytest.approx(0.4, abs=0.01)
    assert laws[0].points == 5
    assert laws[0].at(np.array([100.0])) == pytest.approx(7.0 * 100**-0.4, rel=0.1)


def test_fewer_than_four_sizes_make_no_law() -> None:
    with pytest.raises(InputError, match="too few sizes"):
        fit_power_law(np.array([1.0, 2.0, 3.0, 3.0]), np.array([3.0, 2.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="positive"):
        fit_power_law(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 2.0, 1.0, 0.0]))
    three = made({("a", str(s)): [1.0 / s] for s in SIZES[:3]})
    assert power_laws(three) == {}


def test_the_words_follow_the_numbers() -> None:
    better = {("good", str(s)): [1.0 * s**-0.5, 1.1 * s**-0.5] for s in SIZES}
    worse = {("bad", str(s)): [3.0 * s**-0.2, 3.1 * s**-0.2] for s in SIZES}
    result = made({**better, **worse})
    text = " ".join(sentences(result))
    assert "The best of 10 combinations is way good, size 1600" in text
    assert "good beats bad (in 10 of 10)" in text
    assert "Along size, good: the error falls as the power -0.50" in text
    assert "Along size, bad: the error falls as the power -0.20" in text
    swapped = made({("good", s): v for (_, s), v in worse.items()} | {("bad", s): v for (_, s), v in better.items()})
    assert "bad beats good (in 10 of 10)" in " ".join(sentences(swapped))


def test_no_difference_is_called_none() -> None:
    rng = np.random.default_rng(1)
    result = made({(way, str(s)): list(1 + 0.3 * rng.random(3)) for way in ("a", "b") for s in SIZES})
    assert "is not clearly ahead of" in sentences(result)[1]


def test_one_run_each_is_called_what_it_is() -> None:
    single = made({("a", "1"): [1.0], ("b", "1"): [3.0], ("c", "1"): [2.0]})
    text = sentences(single)
    assert text[1] == "By way, all else equal, best first: a; c; b. One run each, so this says nothing about how often."
    assert text[2] == "Each combination was run once, so how far chance moves a score was not measured."
    double = made({("a", "1"): [1.0, 3.5], ("b", "1"): [3.0, 3.0]})
    text = sentences(double)
    assert text[1:] == ["By way, all else equal, best first on average: a; b. Two runs each are too few to tell more."]
    uneven = made({("a", "1"): [1.0] * 4, ("b", "1"): [2.0] * 4, ("c", "1"): [3.0]})
    assert "a beats b (in 4 of 4); b was ahead of c in 1 of 1, too few to tell." in sentences(uneven)[1]


def test_a_run_that_ends_is_told_in_a_line_with_its_score_and_time() -> None:
    cell = made({("a", "1"): [0.0125]}).cells[0]
    assert outcome("forecast", replace(cell, minutes=0.254)) == "test MSE 0.0125, 0.25 min"
    assert outcome("forecast", replace(cell, figures={})) == "diverged"


def test_shares_are_good_when_high() -> None:
    result = made({("a", "1"): [0.9, 0.8], ("b", "1"): [0.2, 0.3]}, task="generation", score="molecule_stability")
    assert result.combinations()[0]["way"] == "a"
    assert study_table(result).splitlines()[2].startswith("| a |")


def test_a_study_runs_once_and_its_pictures_can_be_drawn(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    grid = cells(study, tmp_path, folder=str(tmp_path / "runs"))
    names: list[str] = []
    ended: list[tuple[int, str]] = []
    first = run_study(
        study,
        grid,
        tmp_path / "results",
        on_progress=lambda done, name, progress: names.append(name),
        on_result=lambda done, name, found: ended.append((done, name)),
    )
    assert len(set(names)) == 8
    assert ended == list(enumerate(dict.fromkeys(names), start=1))
    names.clear()
    again = run_study(study, grid, tmp_path / "results", on_progress=lambda done, name, progress: names.append(name))
    assert names == []  # nothing was trained again
    assert again == first
    assert all(np.isfinite(cell.figures["position_mse"]) for cell in first.cells)
    for name, figure in study_figures(first).items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_processes_share_a_study_and_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, STUDY.replace('40 = ["data.num_train=40"]', ""))
    study = load_study(path)
    grid, folder = cells(study, tmp_path, folder=str(tmp_path / "runs")), tmp_path / "results"
    held = grid[1].run.name
    alone = run_study(study, grid, tmp_path / "alone")
    trained: list[str] = []
    with ExitStack() as other:
        other.enter_context(only_process(folder / "cells", f".{held}.lock"))

        def waited(seconds: float) -> None:
            trained.append("waited")
            other.close()  # the other process died before it had a result

        monkeypatch.setattr("geomol.study.runner.time.sleep", waited)
        result = run_study(
            study,
            grid,
            folder,
            on_result=lambda done, name, found: trained.append(name),
            on_wait=lambda left: trained.append(f"{left} left"),
        )
    names = [cell.run.name for cell in grid]
    assert trained == [names[0], *names[2:], "1 left", "waited", held]
    assert result == alone  # in the order of the grid, whoever trained what


def test_the_command_logs_every_run_that_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = STUDY.replace("seeds = [0, 1]", "seeds = [0]").replace('40 = ["data.num_train=40"]', "")
    words = [str(write(tmp_path, small)), "--out", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert main(["study", *words]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "test MSE" in line]
    assert [line.partition("  ")[0] for line in told] == ["1 of 2 runs", "2 of 2 runs"]
    assert all(line.endswith(" min") for line in told)
    assert main(["study", *words]) == 0
    assert "test MSE" not in capsys.readouterr().err  # nothing was trained again


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "studies").glob("*.toml")), ids=lambda p: p.stem)
def test_the_shipped_studies_are_sound(path: Path) -> None:
    assert len(cells(load_study(path), path.parent)) > 1
