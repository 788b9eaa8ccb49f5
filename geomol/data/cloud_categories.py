"""Point clouds of one category, "modelnet10/chair", and as many points of each as are wanted."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from geomol.data.cloud_sets import CLOUD_SETS, load_clouds
from geomol.data.cloud_transforms import uniform_jitter
from geomol.data.clouds import CloudBatch, Clouds
from geomol.data.modelnet import VOXEL_JITTER
from geomol.data.npz_file import NpzFile
from geomol.errors import ConfigError, nearest

CLOUD_POOL = 1024  # points of a made or sampled cloud, of which every draw takes others


def names_clouds(source: str | Path) -> bool:
    """Whether these are point clouds rather than structures: a set of `CLOUD_SETS`, a category of one, or their file.

    Raises:
        InputError, SecurityError: an .npz that cannot be read.
    """
    path = Path(source)
    if path.suffix.lower() == ".npz":
        found = set(NpzFile(path).headers) if path.is_file() else set()
        return {"pos", "ptr", "name"} <= found and "numbers" not in found
    return str(source).partition("/")[0] in CLOUD_SETS


def load_category(source: str | Path, *, num_points: int = CLOUD_POOL) -> Clouds:
    """A set of point clouds with its splits, see `load_clouds`, or one category of it.

    Args:
        source: as there, or "<set>/<category>", such as "modelnet10/chair".
        num_points: how many points of each cloud are wanted at a time; sampled sets get at least `CLOUD_POOL`.

    Raises:
        ConfigError: no such category. DataError, InputError: as `load_clouds`.
    """
    if Path(source).suffix.lower() == ".npz" or Path(source).is_file():
        return load_clouds(source)
    head, _, category = str(source).partition("/")
    wanted = CLOUD_POOL if head == "modelnet10" else max(num_points, CLOUD_POOL)
    whole = load_clouds(head, num_points=wanted)
    if not category:
        return whole
    if whole.label is None or category not in whole.class_names:
        remedy = nearest(category, whole.class_names) if whole.class_names else "these clouds have no categories"
        raise ConfigError(f'no category "{category}"', where=head, remedy=remedy)
    rows = np.flatnonzero(whole.label == whole.class_names.index(category))
    place = np.full(len(whole), -1)
    place[rows] = np.arange(len(rows))
    splits = {name: place[old][place[old] >= 0] for name, old in whole.splits.items()}
    return replace(whole.subset(rows), name=str(source), splits=splits)


def voxel_width(clouds: Clouds) -> float:
    """Half the width of the voxels at whose centres the points sit; 0 where they lie on the surface itself."""
    return VOXEL_JITTER if clouds.name.partition("[")[0].partition("/")[0] == "modelnet10" else 0.0


def check_points(clouds: Clouds, num_points: int) -> None:
    """Refuses to draw more points than there are; of voxels there may be more, each anywhere in its voxel.

    Raises:
        ConfigError: a cloud that has fewer points.
    """
    if voxel_width(clouds) == 0 and len(clouds) and int(clouds.sizes.min()) < num_points:
        fewest = int(clouds.sizes.argmin())
        raise ConfigError(
            f"cloud {fewest} has fewer points than wanted",
            where=clouds.name,
            expected=f"at most {int(clouds.sizes.min())}",
            got=str(num_points),
        )


def draw_points(
    clouds: Clouds, index: Int[np.ndarray, " B"], num_points: int, *, generator: torch.Generator
) -> CloudBatch:
    """`num_points` random points of each chosen cloud, in float64, and in random places of their voxels.

    Of a cloud with fewer points all are taken, again and again where that is not enough (see `check_points`).
    """
    rows = np.asarray(index)
    few = bool(len(rows)) and int(clouds.sizes[rows].min()) < num_points
    drawn = None if few else num_points
    batch = clouds.batch(rows, num_points=drawn, generator=generator, dtype=torch.float64)
    if few:
        batch = _repeated(batch, num_points, generator)
    width = voxel_width(clouds)
    return uniform_jitter(batch, width, generator=generator) if width > 0 else batch


def _repeated(batch: CloudBatch, num: int, generator: torch.Generator) -> CloudBatch:
    """Each cloud's points in random order, from the start again until there are `num`."""
    taken: list[Tensor] = []
    starts = batch.ptr.tolist()
    for first, last in pairwise(starts):
        order = first + torch.randperm(last - first, generator=generator)
        taken.append(order.repeat(-(-num // (last - first)))[:num])
    choice = torch.cat(taken)
    return replace(
        batch,
        pos=batch.pos[choice],
        ptr=torch.arange(len(starts)) * num,
        normals=None if batch.normals is None else batch.normals[choice],
        part=None if batch.part is None else batch.part[choice],
    )
