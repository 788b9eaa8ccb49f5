"""Structures that are shown to a backbone somewhere else than at the origin."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from geomol.graph import Graph
from geomol.models import Features

ABOUT_CENTROID = ("O(3)", "SO(3)")  # groups that leave the centroid where it is


def shift_structures(graph: Graph, shift: Float[Tensor, "G 3"]) -> Graph:
    """Every structure moved by a vector of its own, Å."""
    return graph.replace(pos=graph.pos + shift.to(graph.pos.dtype)[graph.batch])


class ShiftedBackbone(nn.Module):
    """A backbone that sees every structure moved by a vector of its own."""

    def __init__(self, backbone: nn.Module, shift: Float[Tensor, "P 3"]) -> None:
        super().__init__()
        self.backbone, self.shift = backbone, shift

    def forward(self, graph: Graph) -> Features:
        out: Features = self.backbone(shift_structures(graph, self.shift))
        return out
