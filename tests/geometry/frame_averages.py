"""Random points and rotations, and averages over frames of a network without symmetry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geomol.geometry import random_rotations
from geomol.geometry.frames import pca_frames
from geomol.geometry.robust_frames import robust_frames


def cloud(seed: int, num: int = 9) -> Tensor:
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(seed: int = 0) -> Tensor:
    return random_rotations(1, generator=torch.Generator().manual_seed(seed))[0]


def network(seed: int = 0) -> Any:
    """An arbitrary smooth function of a list of points, without any symmetry."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(3, 32, generator=rng, dtype=torch.float64)
    b, c = torch.randn(2, 32, generator=rng, dtype=torch.float64)
    return lambda points: (torch.tanh(points @ a + b).square() @ c).sum(-1) + (torch.tanh(points @ a) @ c).sum(-1).cos()


def robust_averages(pos: Tensor, *, mirror: bool = True, seed: int = 0) -> Tensor:
    """Averages of a network over the robust frames of many structures of equal size, (G, n, 3) -> (G,)."""
    num = pos.shape[1]
    frames = robust_frames(pos.flatten(0, 1), torch.arange(0, len(pos) * num + 1, num), mirror=mirror)
    seen = (pos - frames.origin[:, None])[frames.structure] @ frames.rotation
    return pos.new_zeros(len(pos)).index_add(0, frames.structure, frames.weight * network(seed)(seen))


def robust_average(pos: Tensor, *, mirror: bool = True, seed: int = 0) -> Tensor:
    return robust_averages(pos[None], mirror=mirror, seed=seed)[0]


def pca_average(pos: Tensor, *, group: str = "O(3)", seed: int = 0, **settings: Any) -> Tensor:
    frames, found = pca_frames(pos, torch.tensor([0, len(pos)]), group=group, **settings)
    return network(seed)((pos - found.origin) @ frames[0]).mean()
