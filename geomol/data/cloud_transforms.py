"""Changes to batches of point clouds: pure functions, with the generator they draw from; normals follow the points."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.data.clouds import CloudBatch
from geomol.errors import ConfigError, nearest
from geomol.geometry import random_rotations, rotation_about_z
from geomol.ops import segment_max, segment_mean

ROTATIONS = ("none", "z", "so3")


@dataclass(frozen=True)
class Protocol:
    """Which random rotations a model is trained and tested under (Esteves et al., ECCV 2018)."""

    train: str
    test: str


PROTOCOLS = {
    "z/z": Protocol("z", "z"),
    "z/SO(3)": Protocol("z", "so3"),
    "SO(3)/SO(3)": Protocol("so3", "so3"),
    "none/none": Protocol("none", "none"),
    "none/SO(3)": Protocol("none", "so3"),
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name, such as "z/SO(3)".

    Raises:
        ConfigError: there is none.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f'unknown protocol "{name}"', remedy=nearest(name, PROTOCOLS))
    return PROTOCOLS[name]


def rotations_about_z(num: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "{num} 3 3"]:
    """Rotations about the third axis by angles uniform on the circle."""
    return rotation_about_z(2 * math.pi * torch.rand(num, generator=generator, dtype=torch.float64))


def draw_rotations(group: str, num: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "{num} 3 3"]:
    """Uniform rotations of the group "none" (the identity), "z" (about the third axis) or "so3", in float64.

    Raises:
        ConfigError: another group.
    """
    if group == "none":
        return torch.eye(3, dtype=torch.float64).repeat(num, 1, 1)
    if group == "z":
        return rotations_about_z(num, generator=generator)
    if group == "so3":
        return random_rotations(num, generator=generator)
    raise ConfigError(f'unknown group of rotations "{group}"', expected=", ".join(ROTATIONS))


def rotate(clouds: CloudBatch, rotation: Float[Tensor, "G 3 3"]) -> CloudBatch:
    """Each cloud turned about the origin, x → R x; normals and the frame turn with it."""
    per_point = rotation[clouds.batch.to(rotation.device)].to(clouds.pos)
    turn = rotation.to(clouds.frame)
    return replace(
        clouds,
        pos=torch.einsum("nij,nj->ni", per_point, clouds.pos),
        normals=None if clouds.normals is None else torch.einsum("nij,nj->ni", per_point, clouds.normals),
        frame=turn @ clouds.frame,
    )


def random_rotate(clouds: CloudBatch, group: str, *, generator: torch.Generator) -> CloudBatch:
    """Each cloud turned by its own random rotation of the group "none", "z" or "so3"."""
    return rotate(clouds, draw_rotations(group, len(clouds), generator=generator))


def normalise_sphere(clouds: CloudBatch) -> CloudBatch:
    """Each cloud centred on the mean of its points, and scaled so that the farthest lies on the unit sphere.

    Commutes with rotations. A cloud whose points are all in one place is centred only.
    """
    local = _centred(clouds)
    reach = segment_max(local.norm(dim=1), clouds.ptr)
    return replace(clouds, pos=local / _unless_zero(reach)[clouds.batch, None])


def normalise_cube(clouds: CloudBatch) -> CloudBatch:
    """Each cloud moved and scaled, by one factor, so that its bounding box is centred in [−1, 1]³ and touches it.

    The box belongs to the axes: this does not commute with rotations.
    """
    high, low = segment_max(clouds.pos, clouds.ptr), -segment_max(-clouds.pos, clouds.ptr)
    local = clouds.pos - ((low + high) / 2)[clouds.batch]
    reach = ((high - low) / 2).amax(1)
    return replace(clouds, pos=local / _unless_zero(reach)[clouds.batch, None])


def random_scale(
    clouds: CloudBatch, low: float, high: float, *, generator: torch.Generator, anisotropic: bool = False
) -> CloudBatch:
    """Each cloud scaled by a factor uniform in [low, high], or by one along each axis.

    Normals of an anisotropic scaling by the matrix S go with S⁻¹ and are made unit again.

    Raises:
        ConfigError: a range that is not positive and ascending.
    """
    if not 0 < low <= high or not math.isfinite(high):
        raise ConfigError("range of scales cannot be", expected="0 < low <= high", got=f"{low} to {high}")
    drawn = torch.rand(len(clouds), 3 if anisotropic else 1, generator=generator, dtype=torch.float64)
    factor = (low + (high - low) * drawn).to(clouds.pos)[clouds.batch]
    normals = clouds.normals
    if normals is not None and anisotropic:
        normals = torch.nn.functional.normalize(normals / factor, dim=1)
    return replace(clouds, pos=clouds.pos * factor, normals=normals)


def jitter(clouds: CloudBatch, sigma: float, *, generator: torch.Generator, clip: float = math.inf) -> CloudBatch:
    """Normal noise of standard deviation `sigma` on every coordinate, cut off at ±`clip`; normals stay.

    Raises:
        ConfigError: a negative width.
    """
    if not (sigma >= 0 and clip > 0):
        raise ConfigError("width of the jitter cannot be", expected="sigma >= 0, clip > 0", got=f"{sigma}, {clip}")
    noise = torch.randn(clouds.pos.shape, generator=generator, dtype=torch.float64) * sigma
    return replace(clouds, pos=clouds.pos + noise.clamp(-clip, clip).to(clouds.pos))


def uniform_jitter(clouds: CloudBatch, half_width: float, *, generator: torch.Generator) -> CloudBatch:
    """Noise uniform in ±`half_width` on every coordinate: undoes the grid of voxels of that half width.

    Raises:
        ConfigError: a negative width.
    """
    if not half_width >= 0:
        raise ConfigError("width of the jitter cannot be", expected="0 or more", got=repr(half_width))
    drawn = torch.rand(clouds.pos.shape, generator=generator, dtype=torch.float64)
    return replace(clouds, pos=clouds.pos + ((2 * drawn - 1) * half_width).to(clouds.pos))


def drop_points(clouds: CloudBatch, largest_share: float, *, generator: torch.Generator) -> CloudBatch:
    """From each cloud a random share of its points removed, the share uniform in [0, largest_share]; one point stays.

    As the random dropout of PointNet++ (Qi et al. 2017), but the points are gone rather than moved onto the first.

    Raises:
        ConfigError: a share outside [0, 1].
    """
    if not 0 <= largest_share <= 1:
        raise ConfigError("share of points to drop cannot be", expected="0 to 1", got=repr(largest_share))
    share = torch.rand(len(clouds), generator=generator, dtype=torch.float64) * largest_share
    drawn = torch.rand(len(clouds.pos), generator=generator, dtype=torch.float64)
    batch = clouds.batch.to(drawn.device)
    kept = drawn >= share[batch]
    # the point with the largest draw stays whatever the share
    top = torch.full((len(clouds),), -1.0, dtype=torch.float64).scatter_reduce(0, batch, drawn, "amax")
    kept |= drawn == top[batch]
    return choose_points(clouds, kept.nonzero()[:, 0].to(clouds.pos.device))


def choose_points(clouds: CloudBatch, rows: Int[Tensor, " M"]) -> CloudBatch:
    """The clouds of only these points, whose row numbers ascend by cloud (as from `farthest_points`).

    Raises:
        ConfigError: rows that would mix the clouds, or leave one without points.
    """
    owner = clouds.batch[rows]
    counts = torch.bincount(owner, minlength=len(clouds))
    if bool((owner.diff() < 0).any()) or bool((counts == 0).any()):
        raise ConfigError("chosen points must come cloud by cloud, with at least one of each")
    return replace(
        clouds,
        pos=clouds.pos[rows],
        ptr=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        normals=None if clouds.normals is None else clouds.normals[rows],
        part=None if clouds.part is None else clouds.part[rows],
    )


def _centred(clouds: CloudBatch) -> Tensor:
    exact = clouds.pos.double()
    return (exact - segment_mean(exact, clouds.ptr)[clouds.batch]).to(clouds.pos)


def _unless_zero(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)
