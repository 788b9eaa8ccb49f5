"""Rotations of space."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rotation_from_quaternion(q: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 3 3"]:
    """Rotation matrix of a quaternion (w, x, y, z), which need not be normalised."""
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def rotation_about_z(angle: Float[Tensor, "*B"]) -> Float[Tensor, "*B 3 3"]:
    """Rotations about the third axis by angles in radians."""
    rotation = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(*angle.shape, 1, 1)
    rotation[..., 0, 0] = rotation[..., 1, 1] = angle.cos()
    rotation[..., 0, 1], rotation[..., 1, 0] = -angle.sin(), angle.sin()
    return rotation


def random_rotations(
    num: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "{num} 3 3"]:
    """Uniformly distributed rotations (det = +1): a Gaussian quaternion is uniform on the 3-sphere after
    normalisation.
    """
    return rotation_from_quaternion(torch.randn(num, 4, generator=generator, dtype=torch.float64)).to(dtype)
