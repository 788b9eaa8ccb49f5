"""A comparison trains alike, repeats nothing, puts the best first, and refuses what cannot be compared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import geomol
from geomol.data import load_nbody
from geomol.errors import ConfigError, TrainingDivergedError
from geomol.study import Comparison, Entry, compare, markdown_table, read_configs, tradeoff_figure
from geomol.study import compare as compare_function
from geomol.study.published import NBODY, published_figure
from geomol.train import Progress, TrainConfig, evaluate_forecast

WriteConfig = Callable[..., Path]
COMPARE_MODULE = __import__("sys").modules[compare_function.__module__]


def row_of(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_two_models_are_trained_measured_and_sorted(bodies: WriteConfig, tmp_path: Path) -> None:
    seen: set[str] = set()
    files = [bodies("nbody-gnn"), bodies("nbody-linear")]
    found = compare(files, on_progress=lambda name, progress: seen.add(name))
    assert seen == {"nbody-gnn", "nbody-linear"}
    errors = [entry.mean("position_mse") for entry in found.entries]
    assert errors == sorted(errors)
    by_name = {entry.name: entry for entry in found.entries}
    for name, entry in by_name.items():
        model = geomol.load(tmp_path / "runs" / name)
        assert entry.figures == [evaluate_forecast(model, load_nbody(), "test")]
        assert entry.parameters == sum(p.numel() for p in model.parameters())
        assert entry.epochs == 2
    assert by_name["nbody-linear"].mean("equivariance_error") < 1e-6 < by_name["nbody-gnn"].mean("equivariance_error")
    assert (by_name["nbody-linear"].published, by_name["nbody-gnn"].published) == (0.0819, 0.0107)
    table = markdown_table(found)
    assert "budget: 2 epochs; seed 0." in table
    assert row_of(table, "nbody-gnn")[5] == "0.0107"
    assert row_of(table, "nbody-linear")[4] == f"{by_name['nbody-linear'].mean('position_mse'):.3g}"


def test_finished_runs_are_not_repeated(bodies: WriteConfig, tmp_path: Path) -> None:
    files = [bodies("nbody-linear")]
    first = compare(files)
    weights = tmp_path / "runs" / "nbody-linear" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    progress: list[Progress] = []
    second = compare(files, on_progress=lambda name, p: progress.append(p))
    assert not progress
    assert weights.stat().st_mtime_ns == made
    assert second == first


def test_seeds_are_averaged_with_their_spread(bodies: WriteConfig, tmp_path: Path) -> None:
    found = compare([bodies("nbody-gnn")], seeds=[0, 3])
    (entry,) = found.entries
    values = [figures["position_mse"] for figures in entry.figures]
    assert len(set(values)) == 2
    assert entry.mean("position_mse") == pytest.approx(sum(values) / 2)
    assert entry.spread("position_mse") == pytest.approx(statistics.stdev(values))
    table = markdown_table(found)
    assert "seeds 0, 3 (mean ± standard deviation)" in table
    assert "±" in row_of(table, "nbody-gnn")[4]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["nbody-gnn", "nbody-gnn-seed3"]


def test_a_budget_for_all_replaces_the_schedule_and_an_early_stop_does_not_apply(bodies: WriteConfig) -> None:
    found = compare(
        [bodies("nbody-linear", extra=", stop_after_minutes = 1e-9")], budget=["schedule.epochs=3"], seeds=[0]
    )
    assert found.budget == "3 epochs"
    assert found.entries[0].epochs == 3


def test_what_cannot_be_compared_is_refused_before_training(
    bodies: WriteConfig, molecules: WriteConfig, tmp_path: Path
) -> None:
    linear = bodies("nbody-linear")
    springs = molecules("springs", 'name = "egnn"')
    other = bodies("other", like="nbody-linear", source="nbody/charged5-later")
    smaller = molecules("fewer", 'name = "egnn"', num_train=5)
    full = molecules("full", 'name = "egnn"')
    full.write_text(full.read_text().replace("num_train = 6, num_valid = 3", "num_train = 8, num_valid = 4"))
    for files, message in (
        ([linear, springs], r"only runs on the same data.*forecast on nbody/charged5.*springs: potential on"),
        ([linear, other], r"only runs on the same data.*nbody/charged5-later"),
        ([springs, smaller], r"num_train=6.*num_train=5"),
        ([linear, linear], r"two runs of one name"),
        ([full], r"no test part to compare on; set data.num_test|no test part"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(files)
    assert not (tmp_path / "runs").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no configurations to compare"):
        read_configs([tmp_path / "empty"])
    assert read_configs([linear]) == [linear]


def test_a_run_that_diverges_is_named_and_does_not_stop_the_others(
    bodies: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = COMPARE_MODULE.train

    def sometimes(config: TrainConfig, **rest: object) -> object:
        if config.name == "nbody-gnn":
            raise TrainingDivergedError("the loss became NaN")
        return train(config, **rest)

    monkeypatch.setattr(COMPARE_MODULE, "train", sometimes)
    found = compare([bodies("nbody-gnn"), bodies("nbody-linear")])
    assert [entry.name for entry in found.entries] == ["nbody-linear", "nbody-gnn"]
    assert row_of(markdown_table(found), "nbody-gnn")[4] == "diverged"
    tradeoff_figure(found)


def test_potentials_are_compared_by_forces_in_mev(molecules: WriteConfig) -> None:
    files = [molecules("one", 'name = "egnn"'), molecules("two", 'name = "ponita"')]
    found = compare(files)
    assert found.score == "force_mae_eV_per_A"
    entry = found.entries[0]
    row = row_of(markdown_table(found), entry.name)
    assert row[3] == "turned in SO(3)"
    assert float(row[4]) == pytest.approx(1e3 * entry.mean("force_mae_eV_per_A"), rel=5e-3)
    assert float(row[-1]) > 0
    assert "force MAE meV/Å" in markdown_table(found)
    tradeoff_figure(found)


def test_published_values_belong_to_their_data() -> None:
    assert published_figure("nbody-egnn", "nbody/charged5") == NBODY["egnn"] == 0.0071
    assert published_figure("nbody-egnn", "nbody/charged5-later") is None
    assert published_figure("egnn", "nbody/charged5") is None
    assert published_figure("nbody-gnn-sfa", "nbody/charged5") is None


@pytest.fixture
def crowded() -> Comparison:
    """Twenty models close to each other."""
    entry = Entry("", "mpnn", "E(3)", "", 10, 1.0, 4.0, 30.0, [], 0, None)
    entries = [
        replace(
            entry,
            name=f"nbody-model-number-{k}",
            figures=[{"position_mse": 0.005 * (1 + 0.02 * k), "equivariance_error": 1e-7 if k % 2 else 0.1}],
            published=0.006 if k % 5 == 0 else None,
        )
        for k in range(20)
    ]
    return Comparison("forecast", "nbody/charged5", "position_mse", [0], "4 minutes", entries)


def test_names_in_the_picture_do_not_overlap_and_rings_are_explained(crowded: Comparison) -> None:
    figure = tradeoff_figure(crowded)
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [text.get_window_extent().shrunk(0.99, 0.99) for text in axes.texts]
    assert axes.texts[0].get_text() == "19"  # without what all names start with
    assert len(boxes) == 20
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["here", "published"]


def test_a_comparison_is_json(crowded: Comparison) -> None:
    figures = json.loads(json.dumps(crowded.figures()))
    assert figures["entries"][5]["published"] == 0.006
    assert figures["entries"][0]["figures"][0]["position_mse"] == 0.005
