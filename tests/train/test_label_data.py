"""Batches of labelled clouds: balance, poses, voxels, variations, disjoint parts; the metrics and the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from train.toy_clouds import MakeConfig, toy

from geomol.data import VOXEL_JITTER, Clouds, voxel_width
from geomol.train import label_parts, parse_config
from geomol.train.label_data import CloudPart, pieces, posed
from geomol.train.label_task import LabelTask
from geomol.train.label_use import confusion_matrix, instance_iou, label_figures, mean_class_accuracy
from geomol.train.prepare import prepare
from geomol.train.sections import LabelConfig


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
