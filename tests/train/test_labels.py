"""Learning classes of point clouds and parts of points: in which poses a model is right, votes, exact resume."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train.toy_clouds import INVARIANT, PLAIN, MakeConfig, load, toy

from geomol.data import rotate
from geomol.errors import ConfigError
from geomol.geometry import rotation_about_z
from geomol.train import embed_clouds, evaluate_labels, measure_labels, parse_config, train
from geomol.train.label_ask import some_points
from geomol.train.label_data import posed
from geomol.train.label_use import label_logits
from geomol.train.prepare import prepare


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


def test_features_of_clouds_are_what_the_readout_sees(config: MakeConfig, tmp_path: Path) -> None:
    raw = config(model=INVARIANT)
    model = prepare(parse_config(raw)).model.double().eval()
    clouds = toy("solids", num=6)
    features = embed_clouds(model, clouds)
    still = posed(some_points(clouds, model.num_points), "none", num_points=None)
    with torch.no_grad():
        logits = model(still)
        read = model.head.read(torch.from_numpy(features))
    torch.testing.assert_close(read, logits, rtol=1e-9, atol=1e-9)
    turned = replace(clouds, pos=clouds.pos @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    np.testing.assert_allclose(embed_clouds(model, turned), features, atol=1e-8)  # an invariant model
