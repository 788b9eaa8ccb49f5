"""Learning classes of point clouds and parts of points: data, variations, metrics, training and its exact resume."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geomol.checkpoint import load_model
from geomol.cli import main
from geomol.cli.train import describe
from geomol.data import VOXEL_JITTER, Clouds, rotate, voxel_width, write_clouds
from geomol.errors import ConfigError, InputError
from geomol.geometry import rotation_about_z
from geomol.labels import LabelModel
from geomol.report import save_plots, write_report
from geomol.train import Progress, embed_clouds, evaluate_labels, label_parts, measure_labels, parse_config, train
from geomol.train.label_data import CloudPart, pieces, posed
from geomol.train.label_task import LabelTask
from geomol.train.label_use import (
    confusion_matrix,
    instance_iou,
    label_figures,
    label_logits,
    mean_class_accuracy,
)
from geomol.train.prepare import prepare
from geomol.train.sections import LabelConfig

INVARIANT = {"name": "ponita", "orientations": "none", "channels": 16, "num_layers": 1, "cutoff": 2.5}
PLAIN = {"name": "deep_sets", "channels": 32, "num_layers": 2, "pool": "max"}
MakeConfig = Callable[..., dict]


def sphere(rng: np.random.Generator, num: int) -> np.ndarray:
    """With a smaller one inside."""
    points = rng.normal(size=(num, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True) * rng.choice([0.5, 1.0, 1.0], size=(num, 1))


def cube(rng: np.random.Generator, num: int) -> np.ndarray:
    points = rng.uniform(-0.55, 0.55, size=(num, 3))
    points[np.arange(num), rng.integers(3, size=num)] = rng.choice([-0.55, 0.55], size=num)
    return points


def rod(axis: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    def make(rng: np.random.Generator, num: int) -> np.ndarray:
        points = 0.1 * rng.normal(size=(num, 3))
        points[:, axis] = rng.uniform(-1, 1, size=num)
        return points

    return make


SHAPES = {"solids": (sphere, cube), "rods": (rod(2), rod(0))}


def toy(kind: str, *, num: int = 120, points: int = 48, seed: int = 0) -> Clouds:
    """Two kinds of shapes in turn; what is near the centre is one part, the rest another, numbered apart by class."""
    rng = np.random.default_rng(seed)
    pos = np.concatenate([SHAPES[kind][i % 2](rng, points) for i in range(num)])
    label = np.arange(num) % 2
    part = 2 * np.repeat(label, points) + (np.linalg.norm(pos, axis=1) > 0.7)
    return Clouds(
        name=kind,
        pos=pos,
        ptr=np.arange(num + 1) * points,
        normals=np.tile([0.0, 0.0, 1.0], (len(pos), 1)),
        label=label,
        part=part,
        class_names=("one", "other"),
        part_names=("near", "far", "inner", "outer"),
        class_parts=((0, 1), (2, 3)),
        splits={"train": np.arange(num * 2 // 3), "test": np.arange(num * 2 // 3, num)},
    )


@pytest.fixture
def config(tmp_path: Path) -> MakeConfig:
    def make(kind: str = "solids", model: dict | None = None, **changes: object) -> dict:
        file = write_clouds(tmp_path / f"{kind}.npz", toy(kind))
        raw: dict = {
            "name": "shapes",
            "task": "labels",
            "data": {"source": str(file), "num_valid": 20},
            "model": INVARIANT if model is None else model,
            "labels": {"edges": "radius-2.5", "num_points": 32, "features": 16, "rotation": "z"},
            "optimiser": {"learning_rate": 1e-2, "ema": 0.9},
            "schedule": {"epochs": 8, "warmup_steps": 5},
            "run": {"folder": str(tmp_path / "runs"), "batch_size": 12, "rotate": False, "tensorboard": False},
        }
        raw["run"]["threads"] = 1
        for key, value in changes.items():
            section, _, name = key.partition("__")
            raw[section] = {**raw[section], name: value} if name else value
        return raw

    return make


def load(folder: Path) -> LabelModel:
    from_file = load_model(folder if folder.suffix else folder / "model.safetensors")
    assert isinstance(from_file, LabelModel)
    return from_file


def test_rare_classes_are_drawn_as_often_as_balance_says() -> None:
    clouds = toy("solids", num=40)
    rare = np.flatnonzero((np.asarray(clouds.label) == 0) | (np.arange(40) < 8))  # 20 of one kind, 4 of the other
    part = clouds.subset(rare)
    label = torch.from_numpy(np.asarray(part.label))
    assert torch.bincount(label).tolist() == [20, 4]

    def shares(balance: float) -> torch.Tensor:
        drawn = [
            CloudPart(part, LabelConfig(balance=balance)).order(torch.Generator().manual_seed(s), 8) for s in range(200)
        ]
        assert {len(order) for order in drawn} == {24}
        return torch.bincount(label[torch.cat(drawn)]) / (24 * 200)

    order = CloudPart(part, LabelConfig()).order(torch.Generator().manual_seed(0), 8)
    assert sorted(order.tolist()) == list(range(24))  # every cloud once
    for balance in (0.5, 1.0):
        expected = torch.tensor([20.0 ** (1 - balance), 4.0 ** (1 - balance)])
        torch.testing.assert_close(shares(balance), expected / expected.sum(), atol=0.02, rtol=0)


def test_an_invariant_model_learns_solids_and_is_right_alike_in_all_poses(config: MakeConfig) -> None:
    result = train(parse_config(config()))
    assert result.best["valid_accuracy"] >= 0.95
    figures = measure_labels(load(result.run_dir), toy("solids").split("test"))
    assert figures["accuracy_z"] >= 0.9
    assert figures["accuracy_so3"] == figures["accuracy_z"]
    assert figures["rotation_error_of_probability"] < 1e-4


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_best_weights_are_kept_or_on_request_the_last(config: MakeConfig, keep: str) -> None:
    raw = config(schedule__epochs=5, optimiser__learning_rate=0.5, run__keep=keep, run__snapshots=True)
    result = train(parse_config(raw))
    with (result.run_dir / "metrics.csv").open(encoding="utf-8") as file:
        rows = [(float(row["valid_accuracy"]), int(float(row["step"]))) for row in csv.DictReader(file)]
    chosen = rows[-1] if keep == "last" else max(rows, key=lambda row: row[0])
    assert len({accuracy for accuracy, _ in rows}) > 1  # else any would do
    assert result.best["step"] == chosen[1]
    snapshot = load(result.run_dir / "snapshots" / f"step-{chosen[1]:07d}.safetensors").state_dict()
    for name, value in load(result.run_dir).state_dict().items():
        assert torch.equal(value, snapshot[name]), name


def test_a_plain_model_trained_about_z_fails_in_other_poses(config: MakeConfig) -> None:
    """The control: what lies and what stands is known about z, and no more in all poses."""
    raw = config("rods", PLAIN, labels__edges="none")
    model = load(train(parse_config(raw)).run_dir)
    test = toy("rods").split("test")
    figures = measure_labels(model, test)
    assert figures["accuracy_z"] >= 0.95
    assert figures["accuracy_so3"] < 0.85
    assert figures["rotation_error_of_probability"] > 0.3
    untold = evaluate_labels(model, test, protocol="none/none").figures["accuracy"]
    assert untold == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("symmetry", "same"), [("distances", True), ("random frames", True), ("none", False)])
def test_what_is_invariant_learns_the_same_about_z_as_in_all_poses(
    symmetry: str, same: bool, config: MakeConfig
) -> None:
    frames = {"name": "frame_averaging", "group": "SE(3)", "frames": "stochastic", "backbone": PLAIN}
    model = {"distances": INVARIANT, "random frames": frames, "none": PLAIN}[symmetry]
    settings = {"labels__jitter": 0.02, "labels__drop": 0.3, "labels__scale": [0.8, 1.2], "schedule__epochs": 2}
    weights = []
    for rotation in ("z", "SO(3)"):
        raw = config(model=model, labels__rotation=rotation, **settings, run__dtype="float64", name=rotation[0])
        weights.append(load(train(parse_config(raw)).run_dir).state_dict())
    assert len(weights[0]) > 4
    off = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    assert off < 1e-10 if same else off > 1e-3


def test_votes_make_any_model_the_same_in_their_poses(config: MakeConfig) -> None:
    model = load(train(parse_config(config("rods", PLAIN, labels__edges="none", schedule__epochs=1))).run_dir)
    seen = posed(toy("rods").split("test"), "so3", num_points=None)
    fourth = rotation_about_z(torch.tensor(math.pi / 2, dtype=torch.float64)).expand(len(seen), 3, 3)

    def change(votes: int) -> float:
        before, after = (label_logits(model, clouds, votes=votes) for clouds in (seen, rotate(seen, fourth)))
        return float((before.softmax(dim=1) - after.softmax(dim=1)).abs().max())

    assert change(4) < 1e-6 < 1e-3 < change(1)
    assert change(3) > 1e-6  # control: a quarter is no third
    assert torch.equal(label_logits(model, seen, votes=1), label_logits(model, seen))
    with pytest.raises(ConfigError, match="votes out of range"):
        label_logits(model, seen, votes=0)


def test_parts_are_learned_and_only_those_of_the_class_are_found(config: MakeConfig) -> None:
    raw = config(labels__level="point", schedule__epochs=14, optimiser__learning_rate=2e-2)
    result = train(parse_config(raw))
    assert result.best["valid_instance_miou"] > 0.6
    model = load(result.run_dir)
    found = evaluate_labels(model, toy("solids").split("test"), protocol="z/SO(3)")
    assert found.confusion.shape == (4, 4)
    assert found.confusion[:2, 2:].sum() == found.confusion[2:, :2].sum() == 0
    assert found.figures["accuracy"] == np.trace(found.confusion) / found.confusion.sum()


def brute_force_miou(
    wanted: list[int], found: list[int], owner: list[int], parts: list[list[int]]
) -> tuple[list[float], list[int]]:
    """By sets of points, part for part."""
    each = []
    for cloud, possible in enumerate(parts):
        points = [p for p, c in enumerate(owner) if c == cloud]
        ious = []
        for part in possible:
            there, said = {p for p in points if wanted[p] == part}, {p for p in points if found[p] == part}
            ious.append(1.0 if not there | said else len(there & said) / len(there | said))
        each.append(sum(ious) / len(ious))
    return each, []


def test_the_miou_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(1, 9, 5)
        owner = np.repeat(np.arange(5), sizes)
        wanted, found = rng.integers(0, 4, (2, len(owner)))
        possible = rng.random((5, 4)) < 0.7
        possible[:, 0] = True
        parts = [np.flatnonzero(row).tolist() for row in possible]
        expected, _ = brute_force_miou(wanted.tolist(), found.tolist(), owner.tolist(), parts)
        np.testing.assert_allclose(instance_iou(wanted, found, owner, possible), expected, rtol=1e-12)
    perfect = instance_iou(wanted, wanted, owner, possible)
    assert perfect.tolist() == [1.0] * 5


def test_confusion_counts_true_kinds_in_rows() -> None:
    confusion = confusion_matrix(np.array([0, 0, 0, 2]), np.array([0, 1, 1, 2]), 4)
    assert confusion.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert mean_class_accuracy(confusion) == pytest.approx((1 / 3 + 1) / 2), "kinds that do not occur do not count"


def test_the_class_miou_weighs_classes_and_the_instance_miou_clouds(config: MakeConfig) -> None:
    prepared = prepare(parse_config(config(labels__level="point")))
    clouds = toy("solids").subset([0, 2, 4, 6, 1])
    batch = posed(clouds, "z", num_points=None)
    evaluation = label_figures(prepared.model.eval(), batch)  # type: ignore[arg-type]
    table = np.array([[True, True, False, False], [False, False, True, True]])
    each = instance_iou(clouds.part, evaluation.predicted, batch.batch.numpy(), table[clouds.label])
    assert evaluation.figures["instance_miou"] == pytest.approx(each.mean())
    assert evaluation.figures["class_miou"] == pytest.approx((each[:4].mean() + each[4]) / 2)


def test_the_loss_is_cross_entropy_with_smoothed_labels(config: MakeConfig) -> None:
    for level, smoothing in (("cloud", 0.0), ("cloud", 0.2), ("point", 0.2)):
        prepared = prepare(parse_config(config(labels__level=level, labels__smoothing=smoothing)))
        assert isinstance(prepared.task, LabelTask)
        batch, labels = prepared.train.batch(torch.arange(6))
        logits = prepared.model(batch).double()
        if level == "point":  # of the two parts that each cloud may have
            row = 2 * batch.label[batch.batch][:, None] + torch.arange(2)
            logits, wanted = logits.gather(1, row), labels - row[:, 0]
        else:
            wanted = labels
        expected = torch.nn.functional.cross_entropy(logits, wanted, label_smoothing=smoothing)
        assert prepared.task.loss(prepared.model, batch, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_all_protocols_show_the_same_points_and_turn_the_frame_along() -> None:
    clouds = toy("solids")
    still, about_z, turned = (posed(clouds, group, num_points=20) for group in ("none", "z", "so3"))
    for batch in (about_z, turned):
        back = torch.bmm(batch.pos[:, None], batch.frame[batch.batch])[:, 0]
        assert torch.allclose(back, still.pos, atol=1e-6)
        assert torch.equal(batch.pos, posed(clouds, "z" if batch is about_z else "so3", num_points=20).pos)
    assert torch.allclose(about_z.pos[:, 2], still.pos[:, 2], atol=1e-6)
    assert not torch.allclose(turned.pos[:, 2], still.pos[:, 2], atol=0.1)
    assert torch.equal(torch.cat([piece.pos for piece in pieces(turned, 7)]), turned.pos)


def test_points_of_voxels_are_moved_within_them_in_training_and_tests() -> None:
    clouds = toy("solids")
    voxels = Clouds(**{**clouds.__dict__, "name": "modelnet10[train]"})
    assert voxel_width(clouds) == 0
    assert voxel_width(voxels) == VOXEL_JITTER
    settings = LabelConfig(rotation="none", num_points=48)
    moved = posed(voxels, "none", num_points=None).pos - torch.from_numpy(clouds.pos)
    drawn = CloudPart(voxels, settings).batch(torch.arange(120))[0].pos - torch.from_numpy(clouds.pos)
    for shift in (moved, drawn):
        assert 0.9 * VOXEL_JITTER < float(shift.abs().max()) <= VOXEL_JITTER


def test_variations_follow_the_process_wide_generator_and_keep_their_ranges() -> None:
    settings = LabelConfig(rotation="SO(3)", scale=(0.5, 2.0), jitter=0.01, drop=0.5, num_points=40)
    part = CloudPart(toy("solids"), settings)
    torch.manual_seed(3)
    first, labels = part.batch(torch.arange(30))
    torch.manual_seed(3)
    again, _ = part.batch(torch.arange(30))
    other, _ = part.batch(torch.arange(30))
    assert torch.equal(first.pos, again.pos)
    assert not torch.equal(first.ptr, other.ptr)
    assert labels.tolist() == [0, 1] * 15
    sizes = first.ptr.diff()
    assert sizes.max() <= 40
    assert sizes.min() < 30
    radius = torch.stack([piece.pos.norm(dim=1).max() for piece in pieces(first, 1)][::2])  # of the spheres
    assert radius.min() > 0.45
    assert radius.max() < 2.1
    assert radius.max() / radius.min() > 1.5


def test_stopping_and_continuing_changes_no_byte_of_a_run_on_clouds(config: MakeConfig, tmp_path: Path) -> None:
    varied = {"labels__jitter": 0.02, "labels__drop": 0.3, "labels__scale": [0.8, 1.2], "schedule__epochs": 2}
    varied["run__batch_size"] = 20
    whole = config(**varied, run__folder=str(tmp_path / "whole"))
    parts = config(**varied, run__folder=str(tmp_path / "parts"), run__stop_after_minutes=1e-6)
    train(parse_config(whole))
    calls = 1
    while not train(parse_config(parts)).finished:
        calls += 1
    assert calls > 3
    for name in ("model.safetensors", "metrics.csv"):
        assert (tmp_path / "parts" / "shapes" / name).read_bytes() == (
            tmp_path / "whole" / "shapes" / name
        ).read_bytes()


def test_parts_of_the_data_are_disjoint_and_follow_the_seed(config: MakeConfig) -> None:
    def rows(seed: int) -> dict[str, set[bytes]]:
        parts, _ = label_parts(parse_config(config(data__seed=seed, data__num_train=40)))
        return {name: {cloud.tobytes() for cloud in part.pos.reshape(len(part), -1)} for name, part in parts.items()}

    first, same, other = rows(0), rows(0), rows(1)
    assert {name: len(found) for name, found in first.items()} == {"train": 40, "valid": 20, "test": 40}
    assert not first["train"] & first["valid"]
    assert not (first["train"] | first["valid"]) & first["test"]
    assert first == same
    assert first["valid"] != other["valid"]
    assert first["test"] == other["test"]


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


def test_features_of_clouds_are_what_the_readout_sees(config: MakeConfig, tmp_path: Path) -> None:
    raw = config(model=INVARIANT)
    model = prepare(parse_config(raw)).model.double().eval()
    clouds = toy("solids", num=6)
    features = embed_clouds(model, clouds)
    still = posed(clouds, "none", num_points=model.num_points)
    with torch.no_grad():
        logits = model(still)
        read = model.head.read(torch.from_numpy(features))
    torch.testing.assert_close(read, logits, rtol=1e-9, atol=1e-9)
    turned = replace(clouds, pos=clouds.pos @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    np.testing.assert_allclose(embed_clouds(model, turned), features, atol=1e-8)  # an invariant model
