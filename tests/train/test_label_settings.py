"""Settings and clouds that do not fit a task of labels are named; what `eval`, `report` and the progress line show."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from train.toy_clouds import INVARIANT, PLAIN, MakeConfig, toy

from geomol.cli import main
from geomol.cli.train import describe
from geomol.data import Clouds, write_clouds
from geomol.errors import ConfigError, InputError
from geomol.labels import LabelModel
from geomol.report import save_plots, write_report
from geomol.train import Progress, evaluate_labels, parse_config, train
from geomol.train.prepare import prepare


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels__rotation": "SO3"}, "labels.rotation: .*'none', 'z' or 'SO\\(3\\)'"),
        ({"labels__edges": "knn"}, 'labels.edges: unknown edges "knn"'),
        ({"labels__scale": [1.2, 0.8]}, "labels.scale: a range of factors is positive and ascending"),
        ({"labels__smothing": 0.1}, 'labels.smothing: unknown key; did you mean "smoothing"'),
        ({"labels__drop": 1.0}, "labels.drop"),
        ({"run__rotate": True}, "run.rotate: clouds are turned as labels.rotation says"),
        ({"data__split": "random"}, 'data.split: of no use in task = "labels"'),
        ({"properties": {"targets": ["gap"]}}, 'properties: of no use in task = "labels"'),
        ({"task": "potential", "run__rotate": True}, 'labels: of no use in task = "potential"'),
        ({"labels__normals": "vectors", "model": PLAIN | {"name": "mpnn2"}}, 'unknown model "mpnn2"'),
    ],
)
def test_faults_of_the_settings_are_named(changes: dict, message: str, config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(config(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__num_valid": 500}, "more clouds asked for than there are, expected up to 80, got 500"),
        ({"data__num_valid": None}, "no stored train and valid parts, got test, train; set data.num_valid"),
        (
            {"labels__normals": "vectors", "model": {**INVARIANT, "in_vectors": 2}},
            'orientations="none" reads vectors with kernel="polynomial" alone',
        ),
        ({"model": {"name": "linear_motion"}, "labels__normals": "scalars"}, '"linear_motion" does not read what'),
    ],
)
def test_faults_that_the_data_show_are_named(changes: dict, message: str, config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(parse_config(config(**changes)))


def test_clouds_without_what_is_to_be_learned_are_refused(config: MakeConfig, tmp_path: Path) -> None:
    bare = Clouds(**{**toy("solids").__dict__, "part": None, "normals": None, "part_names": (), "class_parts": ()})
    file = str(write_clouds(tmp_path / "bare.npz", bare))
    with pytest.raises(ConfigError, match=r'labels\.level = "point" needs clouds with parts'):
        prepare(parse_config(config(data__source=file, labels__level="point")))
    with pytest.raises(ConfigError, match=r'labels\.normals = "scalars": these clouds have none'):
        prepare(parse_config(config(data__source=file, labels__normals="scalars")))
    model = prepare(parse_config(config(labels__normals="scalars"))).model
    assert isinstance(model, LabelModel)
    with pytest.raises(InputError, match="these clouds have no normals"):
        evaluate_labels(model, bare)
    strange = Clouds(**{**bare.__dict__, "class_names": ("one", "two")})
    with pytest.raises(
        ConfigError, match="clouds of other classes than the model's, expected one, other, got one, two"
    ):
        evaluate_labels(model, strange)
    with pytest.raises(ConfigError, match='unknown protocol "z/y"'):
        evaluate_labels(model, toy("solids"), protocol="z/y")


def test_eval_prints_the_accuracy_in_both_poses_and_keeps_the_confusion(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = config(schedule__epochs=1)
    folder = train(parse_config(raw)).run_dir
    assert main(["eval", str(folder), raw["data"]["source"], "--split", "test", "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"accuracy_z", "accuracy_so3", "class_accuracy_z", "rotation_error_of_probability"} <= set(figures)
    assert figures["num_clouds"] == 40
    for pose in ("z", "so3"):
        kept = json.loads((folder / "eval" / f"test-{pose}.json").read_text())
        assert kept["figures"]["accuracy"] == figures[f"accuracy_{pose}"]
        rows = list(csv.reader((folder / "eval" / f"test-{pose}.csv").read_text(encoding="utf-8").splitlines()))
        assert [[int(n) for n in row[1:]] for row in rows[1:]] == kept["confusion"]
        assert sum(map(sum, kept["confusion"])) == 40


def test_report_of_a_classifier_shows_accuracy_and_confusion(
    config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = config(schedule__epochs=2)
    folder = train(parse_config(raw)).run_dir
    assert main(["eval", str(folder), raw["data"]["source"], "--split", "test"]) == 0
    page = write_report(folder).read_text()
    for text in ("Validation accuracy", "Confusion, test-z", "class accuracy", "found"):
        assert text in page
    assert {"valid_accuracy.png", "confusion_test-so3.png"} <= {path.name for path in save_plots(folder)}
    broken = folder / "eval" / "test-z.json"
    broken.write_text(json.dumps(json.loads(broken.read_text()) | {"confusion": [[1, 2]]}))
    assert "has no usable confusion matrix" in write_report(folder).read_text()


@pytest.mark.parametrize(
    ("latest", "text"),
    [
        ({"valid_accuracy": 0.9123, "valid_cross_entropy": 0.5}, "accuracy 91.2 %  cross entropy 0.5"),
        ({"valid_gap_mae_eV": 0.0456, "valid_mae_of_spread": 0.03}, "gap 45.6 meV  mae of spread 0.03"),
        ({"valid_alpha_mae_a0^3": 0.3}, "alpha 0.3 a0^3"),
        (
            {"valid_energy_mae_eV": 0.002, "valid_force_mae_eV_per_A": 0.01, "valid_force_rmse_eV_per_A": 0.02},
            "energy 2.0 meV  force 10.0 meV/Å",
        ),
    ],
)
def test_the_progress_line_shows_the_errors_of_every_task(latest: dict[str, float], text: str) -> None:
    assert describe(Progress(1, 2, 0.5, 1.0, 0.5, latest, 0.01)) == f"epoch 2  loss 0.5  {text}"
