"""Published models of properties and labels state what was measured, and load again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from geomol.checkpoint import load_model, read_manifest
from geomol.cli import main
from geomol.data import Clouds, write_clouds
from geomol.errors import DataError
from geomol.labels import LabelModel
from geomol.report import publish_measured
from geomol.train import evaluate_labels, label_parts, parse_config, train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells rods that stand from rods that lie."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    axes = [2, 0] * 30
    pos = 0.1 * rng.normal(size=(60, 24, 3))
    for k, axis in enumerate(axes):
        pos[k, :, axis] = rng.uniform(-1, 1, size=24)
    clouds = Clouds(
        name="rods",
        pos=pos.reshape(-1, 3),
        ptr=np.arange(61) * 24,
        label=np.array([axis == 0 for axis in axes]).astype(np.int64),
        class_names=("standing", "lying"),
        splits={"train": np.arange(40), "test": np.arange(40, 60)},
    )
    config = parse_config(
        {
            "name": "rods",
            "task": "labels",
            "data": {"source": str(write_clouds(folder / "rods.npz", clouds)), "num_valid": 10},
            "model": {"name": "deep_sets", "channels": 16, "num_layers": 2, "pool": "max"},
            "labels": {"edges": "none", "num_points": 24, "features": 16},
            "schedule": {"epochs": 8},
            "run": {"folder": str(folder), "threads": 1, "rotate": False, "tensorboard": False, "batch_size": 10},
        }
    )
    return train(config).run_dir


def test_card_and_manifest_state_the_figures_of_the_test_part(run_dir: Path, tmp_path: Path) -> None:
    figures = publish_measured(run_dir, tmp_path / "rods", command="geomol train rods.toml")
    model = load_model(tmp_path / "rods")
    assert isinstance(model, LabelModel)
    config = parse_config(json.loads((tmp_path / "rods" / "config.json").read_text()))
    again = evaluate_labels(model, label_parts(config)[0]["test"]).figures
    assert figures["accuracy_z"] == again["accuracy"]
    manifest = read_manifest(tmp_path / "rods")
    assert manifest["errors"]["accuracy_so3"] == figures["accuracy_so3"]
    assert figures["rotation_error_of_probability"] > 1e-3  # deep sets of coordinates know the axes
    assert manifest["symmetry"]["measured"]["rotation_error_of_probability"] == figures["rotation_error_of_probability"]
    card = (tmp_path / "rods" / "README.md").read_text()
    assert f"| accuracy z | {figures['accuracy_z']:.4g} |" in card
    assert "`geomol train rods.toml`" in card
    confusion = json.loads((tmp_path / "rods" / "confusion_z.json").read_text())
    assert np.sum(confusion["confusion"]) == 20
    assert (tmp_path / "rods" / "confusion_so3.png").is_file()


def test_the_command_publishes_what_the_run_holds(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(run_dir), "-o", str(tmp_path / "rods")]) == 0
    assert "accuracy z" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "rods")]) == 0


def test_a_run_without_a_model_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no trained model"):
        publish_measured(tmp_path / "empty", tmp_path / "out", command="x")
