"""What trained models of labels say, and how often they are right, in poses that they were or were not trained in."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.data import CloudBatch, Clouds, draw_rotations, find_protocol, rotate
from geomol.errors import ConfigError, OutputError
from geomol.geometry import rotation_about_z
from geomol.labels import LabelModel
from geomol.train.label_data import EVALUATION_BATCH, TEST_SEED, pieces, posed, truth
from geomol.train.tasks import seeded

SYMMETRY_CLOUDS = 100
POSES = {"z": "z/z", "so3": "z/SO(3)"}


@dataclass(frozen=True, eq=False)
class LabelEvaluation:
    """How the labels of a set were found.

    Attributes:
        figures: accuracy (of clouds, or of points), mean class accuracy, cross entropy; of parts also both mIoU.
        confusion: number of those of each kind (row) that were taken for each kind (column).
        names: of the kinds.
        predicted: of each cloud or point.
    """

    figures: dict[str, float]
    confusion: Int[np.ndarray, "K K"]
    names: tuple[str, ...]
    predicted: Int[np.ndarray, " R"]


def confusion_matrix(
    wanted: Int[np.ndarray, " R"], found: Int[np.ndarray, " R"], num: int
) -> Int[np.ndarray, "{num} {num}"]:
    """Counts by true kind (row) and found kind (column)."""
    return np.bincount(wanted * num + found, minlength=num * num).reshape(num, num).astype(np.int64)


def mean_class_accuracy(confusion: Int[np.ndarray, "K K"]) -> float:
    """Mean over the kinds that occur of the share of them that was found."""
    counts = confusion.sum(axis=1)
    return float((np.diag(confusion)[counts > 0] / counts[counts > 0]).mean())


def instance_iou(
    wanted: Int[np.ndarray, " N"],
    found: Int[np.ndarray, " N"],
    owner: Int[np.ndarray, " N"],
    possible: Bool[np.ndarray, "S P"],
) -> Float[np.ndarray, " S"]:
    """Of each cloud, the mean over the parts that it may have of |true ∩ found| / |true ∪ found|.

    A part that is neither there nor found counts as 1 (Qi et al., PointNet, CVPR 2017).

    Args:
        wanted, found: part of each point.
        owner: cloud of each point, ascending.
        possible: which parts each cloud may have.
    """
    num_clouds, num_parts = possible.shape

    def count(*parts: np.ndarray) -> np.ndarray:
        rows = np.concatenate([owner * num_parts + part for part in parts])
        return np.bincount(rows, minlength=num_clouds * num_parts).reshape(num_clouds, num_parts)

    right = wanted == found
    common = np.bincount((owner * num_parts + wanted)[right], minlength=possible.size).reshape(possible.shape)
    union = count(wanted, found) - common
    each = np.where(union > 0, common / np.maximum(union, 1), 1.0)
    return np.asarray((each * possible).sum(axis=1) / possible.sum(axis=1))


def possible_parts(model: LabelModel, label: Int[np.ndarray, " S"] | None, num: int) -> Bool[np.ndarray, "S P"]:
    """Which parts each of `num` clouds may have: those of its class, or where that is not known, all."""
    if model.allowed is None or label is None:
        return np.ones((num, len(model.part_names)), dtype=np.bool_)
    return np.asarray(model.allowed.cpu().numpy()[label])


@torch.no_grad()
def label_logits(
    model: LabelModel, clouds: CloudBatch, batch_size: int = EVALUATION_BATCH, *, votes: int = 1
) -> Float[Tensor, "R K"]:
    """Logits of all clouds or points, float64, on the CPU.

    Args:
        votes: poses of each cloud that are asked about, which are 360°/votes apart about the third axis. The mean of
            their log-probabilities is the answer; it is the same in all these poses, whatever the model.

    Raises:
        ConfigError: no votes.
    """
    if votes < 1:
        raise ConfigError("votes out of range", expected="at least 1", got=str(votes))
    device = next(model.parameters()).device

    def answer(seen: CloudBatch) -> Tensor:
        return torch.cat([model(piece.to(device)).double().cpu() for piece in pieces(seen, batch_size)])

    if votes == 1:
        return answer(clouds)
    turns = rotation_about_z(2 * math.pi / votes * torch.arange(votes, dtype=torch.float64))
    seen = (rotate(clouds, turn.expand(len(clouds), 3, 3)) for turn in turns)
    return torch.stack([answer(posed).log_softmax(dim=1) for posed in seen]).mean(dim=0)


def label_figures(model: LabelModel, clouds: CloudBatch, *, votes: int = 1) -> LabelEvaluation:
    """How the labels of these clouds are found, in the poses that they have."""
    logits, wanted = label_logits(model, clouds, votes=votes), truth(clouds, model.level).cpu()
    found = logits.argmax(dim=1)
    confusion = confusion_matrix(wanted.numpy(), found.numpy(), len(model.names))
    figures = {
        "num_clouds": float(len(clouds)),
        "accuracy": float((wanted == found).double().mean()),
        "class_accuracy": mean_class_accuracy(confusion),
        "cross_entropy": float(torch.nn.functional.cross_entropy(logits, wanted)),
    }
    if model.level == "point":
        label = None if clouds.label is None else clouds.label.cpu().numpy()
        possible = possible_parts(model, label, len(clouds))
        each = instance_iou(wanted.numpy(), found.numpy(), clouds.batch.cpu().numpy(), possible)
        figures["instance_miou"] = float(each.mean())
        if label is not None:
            figures["class_miou"] = float(np.mean([each[label == kind].mean() for kind in np.unique(label)]))
    return LabelEvaluation(figures, confusion, model.names, found.numpy())


def evaluate_labels(
    model: LabelModel, clouds: Clouds, *, protocol: str = "z/z", seed: int = TEST_SEED, votes: int = 1
) -> LabelEvaluation:
    """How the labels of a set are found under the test rotations of a protocol, one of `geomol.data.PROTOCOLS`.

    Points and, for voxels, places within them are the same under all protocols; rotations follow `seed`; `votes` as in
    `label_logits`.

    Raises:
        ConfigError: unknown protocol, or clouds of other classes or parts than the model's.
        InputError: clouds without the normals that the model reads.
    """
    check_names(model, clouds)
    seen = posed(clouds, find_protocol(protocol).test, num_points=model.num_points, seed=seed)
    return label_figures(model, seen, votes=votes)


def check_names(model: LabelModel, clouds: Clouds) -> None:
    """Raises ConfigError for clouds whose labels mean something else than the model's."""
    for ours, theirs, what in (
        (model.class_names, clouds.class_names, "classes"),
        (model.part_names if model.level == "point" else (), clouds.part_names, "parts"),
    ):
        if ours and ours != theirs:
            raise ConfigError(
                f"clouds of other {what} than the model's",
                where=clouds.name,
                expected=", ".join(ours)[:120],
                got=", ".join(theirs)[:120] or "none",
            )


@torch.no_grad()
def label_rotation_error(
    model: LabelModel, clouds: Clouds, *, num: int = SYMMETRY_CLOUDS, seed: int = 0, votes: int = 1
) -> float:
    """Largest change of a probability when a cloud is rotated (by SO(3)), over some clouds."""
    rows = np.unique(np.linspace(0, len(clouds) - 1, min(num, len(clouds))).round().astype(int))
    here = posed(clouds.subset(rows), "none", num_points=model.num_points)
    there = rotate(here, draw_rotations("so3", len(here), generator=seeded(seed)))
    before, after = (label_logits(model, seen, votes=votes).softmax(dim=1) for seen in (here, there))
    return float((after - before).abs().max())


def evaluate_poses(model: LabelModel, clouds: Clouds, *, votes: int = 1) -> dict[str, LabelEvaluation]:
    """`evaluate_labels` under rotations about z ("z") and of SO(3) ("so3")."""
    return {name: evaluate_labels(model, clouds, protocol=protocol, votes=votes) for name, protocol in POSES.items()}


def measure_labels(
    model: LabelModel, clouds: Clouds, found: Mapping[str, LabelEvaluation] | None = None, *, votes: int = 1
) -> dict[str, float]:
    """Figures of `evaluate_poses` (or of `found`, from there) with the poses in their names, and the symmetry error."""
    figures = {"num_clouds": float(len(clouds))}
    for name, evaluation in (evaluate_poses(model, clouds, votes=votes) if found is None else found).items():
        figures |= {f"{key}_{name}": value for key, value in evaluation.figures.items() if key != "num_clouds"}
    return {**figures, "rotation_error_of_probability": label_rotation_error(model, clouds, votes=votes)}


def save_confusion(evaluation: LabelEvaluation, folder: Path, name: str) -> None:
    """Writes `<name>.json` (figures, names, counts) and `<name>.csv` (counts, a row for each true kind).

    Raises:
        OutputError: the folder cannot be written.
    """
    content = {
        "figures": evaluation.figures,
        "names": list(evaluation.names),
        "confusion": evaluation.confusion.tolist(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["true \\ found", *evaluation.names])
            for kind, row in zip(evaluation.names, evaluation.confusion.tolist(), strict=True):
                writer.writerow([kind, *row])
    except OSError as error:
        raise OutputError("cannot write the confusion matrix", where=str(folder), got=str(error)) from error
