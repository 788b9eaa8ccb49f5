"""Asking a trained model of labels about clouds that nobody has labelled."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from geomol.data import CLOUD_POOL, CLOUD_SETS, Clouds, is_scan, load_category, read_scans
from geomol.errors import InputError
from geomol.labels import POOLINGS, LabelModel
from geomol.train.label_data import EVALUATION_BATCH, TEST_SEED, pieces, posed
from geomol.train.label_use import label_logits

FAR = 2.0  # times larger or smaller than what the model learned from

_log = logging.getLogger(__name__)


def clouds_for(model: LabelModel, source: str | Path) -> Clouds:
    """Clouds to ask a model about: a set or a category by name, an .npz, or meshes and points of one's own.

    Files of one's own (see `geomol.data.read_scans`) get the extent of the clouds that the model learned from, all
    others stay as they are; the log warns where theirs is another.

    Raises:
        DataError, InputError: nothing there, or nothing that can be read.
    """
    points = max(model.num_points or 0, CLOUD_POOL)
    if is_scan(source) and str(source) not in CLOUD_SETS:
        clouds = read_scans(source, num_points=points, reach=model.reach)
    else:
        clouds = load_category(source, num_points=points)
        warn_of_scale(model, clouds)
    few = np.flatnonzero(clouds.sizes < (model.num_points or 0))
    if len(few):
        _log.warning(
            "%s: %d of %d clouds have fewer points than the %d that the model learned from, the first: %s",
            clouds.name,
            len(few),
            len(clouds),
            model.num_points,
            clouds.names[few[0]] if clouds.names else few[0],
        )
    return clouds


def warn_of_scale(model: LabelModel, clouds: Clouds) -> None:
    """Says in the log where clouds are much larger or smaller than those that the model learned from."""
    typical = float(np.median(clouds.reaches))
    if not model.reach / FAR <= typical <= model.reach * FAR:
        _log.warning(
            "%s: clouds reach %.3g from their mean, and the model learned from clouds that reach %.3g; "
            "scale them, unless this is meant",
            clouds.name,
            typical,
            model.reach,
        )


def labels_of(
    model: LabelModel, what: Clouds | str | Path, *, votes: int = 1
) -> tuple[Clouds, Float[np.ndarray, "R K"]]:
    """Clouds and the probabilities of `model.names`, a row for each cloud or each point:
    `labels_of(load("modelnet10"), "chair.off")`.

    Of clouds with more points than the model was trained with, the class is that of so many of them, drawn by a fixed
    seed. For parts, all points are answered for, in groups of that size. Where clouds have classes of the same names as
    the model's, their parts are those that the class may have; no other label is looked at.

    Args:
        model: classes or parts.
        what: clouds, or what `clouds_for` takes.
        votes: as `label_logits`.

    Raises:
        InputError: clouds without the normals that the model reads, and as `clouds_for`. ConfigError: no votes.
    """
    clouds = what if isinstance(what, Clouds) else clouds_for(model, what)
    told = model.level == "point" and clouds.class_names == model.class_names
    asked = replace(
        clouds,
        label=clouds.label if told else None,
        class_names=clouds.class_names if told else (),
        part=None,
        part_names=(),
        class_parts=(),
    )
    if model.level == "cloud":
        logits = label_logits(model, posed(some_points(asked, model.num_points), "none", num_points=None), votes=votes)
        answer = np.asarray(logits.softmax(dim=1).numpy())
        check_finite(answer, clouds, np.arange(len(clouds)))
        return clouds, answer
    grouped, rows = in_groups(asked, model.num_points)
    found = label_logits(model, posed(grouped, "none", num_points=None), votes=votes).softmax(dim=1).numpy()
    answer = np.empty((len(clouds.pos), found.shape[1]))
    answer[rows[::-1]] = found[::-1]  # a point that was asked about twice is answered by the first time
    check_finite(answer, clouds, np.repeat(np.arange(len(clouds)), clouds.sizes))
    return clouds, answer


def check_finite(answer: Float[np.ndarray, "R K"], clouds: Clouds, owner: Int[np.ndarray, " R"]) -> None:
    """Raises InputError, with the cloud, where an answer is not a number."""
    bad = np.flatnonzero(~np.isfinite(answer).all(axis=1))
    if len(bad):
        cloud = int(owner[bad[0]])
        raise InputError(
            "the model has no finite answer",
            where=f"{clouds.name}, cloud {clouds.names[cloud] if clouds.names else cloud}",
            remedy="look at its points: all in one place, or far apart",
        )


def some_points(clouds: Clouds, size: int | None) -> Clouds:
    """At most so many points of each cloud, drawn by chance with a fixed seed; no other cloud has a say in it."""
    if size is None or not len(clouds) or int(clouds.sizes.max()) <= size:
        return clouds
    drawn = [
        first + np.sort(np.random.default_rng(TEST_SEED).permutation(num)[:size])
        for first, num in zip(clouds.ptr[:-1], clouds.sizes, strict=True)
    ]
    rows = np.concatenate(drawn)
    return replace(
        clouds,
        pos=clouds.pos[rows],
        ptr=np.concatenate([[0], np.cumsum([len(each) for each in drawn])]),
        normals=None if clouds.normals is None else clouds.normals[rows],
        part=None if clouds.part is None else clouds.part[rows],
    )


def in_groups(clouds: Clouds, size: int | None) -> tuple[Clouds, Int[np.ndarray, " R"]]:
    """The points of each cloud in groups of `size`, drawn by chance with a fixed seed, and the row of each point.

    The last group of a cloud takes points of its first ones again until it is full. Clouds of fewer points stay whole.
    """
    if size is None:
        return clouds, np.arange(len(clouds.pos))
    rows, sizes, owner = [], [], []
    for cloud, (first, num) in enumerate(zip(clouds.ptr[:-1], clouds.sizes, strict=True)):
        order = first + np.random.default_rng(TEST_SEED).permutation(num)
        groups = -(-num // size)
        taken = order if groups == 1 else np.concatenate([order, order[: groups * size - num]])
        rows.append(taken)
        sizes += [len(taken) // groups] * groups
        owner += [cloud] * groups
    every = np.concatenate(rows)
    return replace(
        clouds,
        pos=clouds.pos[every],
        ptr=np.concatenate([[0], np.cumsum(sizes)]),
        normals=None if clouds.normals is None else clouds.normals[every],
        label=None if clouds.label is None else clouds.label[owner],
        names=(),
        centre=None,
        factor=None,
        splits={},
    ), every


@torch.no_grad()
def embed_clouds(model: LabelModel, clouds: Clouds, batch_size: int = EVALUATION_BATCH) -> Float[np.ndarray, "S C"]:
    """Pooled features of each cloud, in the pose of the source: what a model's readout sees, with the symmetry of its
    backbone.
    """
    found = []
    for piece in pieces(posed(some_points(clouds, model.num_points), "none", num_points=None), batch_size):
        piece = piece.to(next(model.parameters()).device)
        found.append(POOLINGS[model.pooling](model.backbone(model.graph(piece)).scalars, piece.ptr).double().cpu())
    features = np.asarray(torch.cat(found).numpy())
    check_finite(features, clouds, np.arange(len(clouds)))
    return features
