"""Small structures of two parts that move on their own, and part frames around a network that reads coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geomol.geometry import random_rotations
from geomol.graph import Graph, complete_graph
from geomol.models import MPNN
from geomol.symmetry import PartFrames, build_backbone
from geomol.symmetry.part_networks import LearnedParts

F64 = torch.float64
INF = float("inf")
SIZES = (11, 9)
EGNN_PARTS = {
    "name": "egnn",
    "elements": [0],
    "channels": 8,
    "num_layers": 2,
    "cutoff": INF,
    "envelope": False,
    "num_radial": 0,
}
GIVEN = {"name": "given", "num_parts": 2, "form": "number"}
SHARES = {"name": "given", "num_parts": 2}


def mpnn(told: int = 1, seed: int = 0) -> nn.Module:
    """A network that reads vectors as numbers."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"cutoff": INF, "envelope": False, "num_radial": 0, "edge_inputs": ["squared_distance"]}
    return MPNN(
        elements=[0], in_scalars=told, out_scalars=3, out_vectors=2, channels=12, num_layers=1, **settings
    ).double()


def wrapped(parts: Any = GIVEN, told: int = 1, **settings: Any) -> PartFrames:
    return PartFrames(backbone=mpnn(told), parts=parts, **settings).double().eval()


def cloud(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> tuple[Tensor, Tensor, Tensor]:
    """Two structures of two parts with distinct moments: positions, row pointers, number of the part of each node."""
    generator = torch.Generator().manual_seed(seed)
    pos = torch.randn(sum(sizes), 3, generator=generator, dtype=F64) * torch.tensor([0.5, 1.0, 1.6], dtype=F64)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    part = torch.cat([torch.arange(n) % 2 for n in sizes])
    return pos + 2.0 * part[:, None], ptr, part


def graph_of(pos: Tensor, ptr: Tensor, scalars: Tensor | None = None) -> Graph:
    return complete_graph(pos, torch.zeros(len(pos), dtype=torch.int64), ptr, node_scalars=scalars)


def motion(seed: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return random_rotations(1, generator=generator)[0], torch.randn(3, generator=generator, dtype=F64)


def move(pos: Tensor, rows: Tensor, mirror: bool = False, seed: int = 5) -> Tensor:
    turn, shift = motion(seed)
    return torch.where(rows[:, None], pos @ (-turn if mirror else turn) + shift, pos)


def part_error(model: nn.Module, soft: Tensor | None = None, *, mirror: bool = False, seed: int = 0) -> float:
    """Largest departure from what it should give when part 1 moves: its vectors turn, all else stays."""
    pos, ptr, part = cloud(seed)
    scalars = part[:, None].to(F64) if soft is None else soft
    before = model(graph_of(pos, ptr, scalars))
    after = model(graph_of(move(pos, part == 1, mirror), ptr, scalars))
    turn = -motion()[0] if mirror else motion()[0]
    wanted = torch.where((part == 1)[:, None, None], before.vectors @ turn, before.vectors)
    return float(max((after.scalars - before.scalars).abs().max(), (after.vectors - wanted).abs().max()).detach())


def shares(epsilon: float) -> Tensor:
    """Each node belongs to its part but for a share of epsilon."""
    part = cloud()[2]
    one = nn.functional.one_hot(part, 2).to(F64)
    return (1 - epsilon) * one + epsilon * (1 - one)


def learned(**settings: Any) -> LearnedParts:
    torch.manual_seed(3)
    net = build_backbone({**EGNN_PARTS, "out_scalars": settings.get("num_parts", 3) + settings.get("context", 0)})
    return LearnedParts(net, **{"num_parts": 3, "sharpness": 5.0, **settings})
