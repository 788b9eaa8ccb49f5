"""Clouds to hold generated ones against: as many, of as many points, in the poses that are wanted."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from geomol.data import Clouds, draw_rotations, rotate
from geomol.data.cloud_categories import check_points, draw_points
from geomol.errors import ConfigError, InputError


def comparable(
    clouds: Clouds, *, num: int, num_points: int, rotation: str = "none", seed: int = 0
) -> list[Float[np.ndarray, "n 3"]]:
    """Some of the clouds, drawn without repeats, of so many random points each, centred on their mean.

    Points of voxels get random places in them, as training draws them.

    Args:
        num: how many clouds.
        num_points: of each.
        rotation: group of the random rotations that they are turned by: "none", "z" or "so3".
        seed: of all that is drawn.

    Raises:
        ConfigError: fewer clouds or points than are wanted, or another group.
    """
    if not 1 <= num <= len(clouds):
        raise ConfigError("as many clouds are not to be had", where=clouds.name, expected=f"up to {len(clouds)}")
    check_points(clouds, num_points)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(clouds), generator=generator)[:num].sort().values.numpy()
    batch = draw_points(clouds, rows, num_points, generator=generator)
    batch = rotate(batch, draw_rotations(rotation, num, generator=generator))
    points = batch.pos.double().view(num, num_points, 3)
    return list((points - points.mean(1, keepdim=True)).numpy())


def common_size(clouds: Clouds) -> int:
    """Points of each cloud, where all have the same number.

    Raises:
        InputError: they have not.
    """
    sizes = np.unique(clouds.sizes)
    if len(sizes) != 1:
        raise InputError("clouds of different sizes", where=clouds.name, got=f"{sizes[0]} to {sizes[-1]} points")
    return int(sizes[0])
