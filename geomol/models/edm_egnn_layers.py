"""Layers of EDM's EGNN. Linear maps of [h_i, h_j, a_ij] are split exactly into parts applied per node and per edge."""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol.graph import Graph
from geomol.ops import gather_receivers, gather_senders, sum_to_receivers

AGGREGATIONS = ("sum", "mean")

_COORD_GAIN = 1e-3  # Xavier gain of the last coordinate layer in the authors' code: positions start almost at rest
_TINY_SQUARE = 1e-8  # Å², under the root of every distance, as in the authors' code
_LONGEST, _SHORTEST, _RATIO = 15.0, 15.0 / 2000, 4  # wavelengths of the sinusoidal embedding, Å, and their ratio


class SinusoidalDistance(nn.Module):
    """Sines and cosines of the distance at wavelengths 15 Å, 15/4 Å, …; without gradient, as published."""

    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        num = int(math.log(_LONGEST / _SHORTEST, _RATIO)) + 1
        waves = 2 * math.pi / _LONGEST * _RATIO ** torch.arange(num, dtype=torch.float64)
        self.register_buffer("waves", waves, persistent=False)
        self.num_features = 2 * num

    def forward(self, squared: Float[Tensor, "E 1"]) -> Float[Tensor, "E K"]:
        phase = (squared.detach() + _TINY_SQUARE).sqrt() * self.waves.to(squared.dtype)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class MessageLayer(nn.Module):
    """One round of messages, with a residual on the node features; the `GCL` of the authors' code."""

    def __init__(self, channels: int, num_edge_feats: int, *, attention: bool, divisor: float | None) -> None:
        super().__init__()
        self.divisor = divisor
        self.from_nodes = nn.Linear(channels, 3 * channels, bias=False)  # rows: receiver, sender, own update
        self.from_edges = nn.Linear(num_edge_feats, channels)
        self.message = nn.Linear(channels, channels)
        self.gate = nn.Linear(channels, 1) if attention else None
        self.from_sum = nn.Linear(channels, channels)
        self.update = nn.Linear(channels, channels)
        edge_bound, node_bound = 1 / math.sqrt(2 * channels + num_edge_feats), 1 / math.sqrt(2 * channels)
        _draw(self.from_nodes.weight[: 2 * channels], edge_bound)
        _draw(self.from_nodes.weight[2 * channels :], node_bound)
        for part, bound in ((self.from_edges, edge_bound), (self.from_sum, node_bound)):
            _draw(part.weight, bound)
            _draw(part.bias, bound)

    def forward(
        self, feats: Float[Tensor, "N C"], edge_feats: Float[Tensor, "E K"], graph: Graph
    ) -> Float[Tensor, "N C"]:
        receiver, sender, own = self.from_nodes(feats).chunk(3, dim=1)
        hidden = self.from_edges(edge_feats) + gather_receivers(receiver, graph) + gather_senders(sender, graph)
        message = silu(self.message(silu(hidden)))
        if self.gate is not None:
            message = message * torch.sigmoid(self.gate(message))
        total = _collect(message, graph, self.divisor)
        return feats + cast(Tensor, self.update(silu(self.from_sum(total) + own)))


class CoordinateLayer(nn.Module):
    """One move of the nodes along the lines to all others; the `EquivariantUpdate` of the authors' code."""

    def __init__(
        self,
        channels: int,
        num_edge_feats: int,
        *,
        bound: float | None,
        norm_constant: float,
        divisor: float | None,
    ) -> None:
        super().__init__()
        self.bound, self.norm_constant, self.divisor = bound, norm_constant, divisor
        self.from_nodes = nn.Linear(channels, 2 * channels, bias=False)  # rows: receiver, sender
        self.from_edges = nn.Linear(num_edge_feats, channels)
        self.hidden = nn.Linear(channels, channels)
        self.pull = nn.Linear(channels, 1, bias=False)
        nn.init.xavier_uniform_(self.pull.weight, gain=_COORD_GAIN)
        edge_bound = 1 / math.sqrt(2 * channels + num_edge_feats)
        for weight in (self.from_nodes.weight, self.from_edges.weight, self.from_edges.bias):
            _draw(weight, edge_bound)

    def forward(
        self, feats: Float[Tensor, "N C"], vec: Float[Tensor, "E 3"], edge_feats: Float[Tensor, "E K"], graph: Graph
    ) -> Float[Tensor, "N 3"]:
        """Displacement of each node; `vec` leads from the receiver to the sender, Å."""
        receiver, sender = self.from_nodes(feats).chunk(2, dim=1)
        hidden = self.from_edges(edge_feats) + gather_receivers(receiver, graph) + gather_senders(sender, graph)
        pull = self.pull(silu(self.hidden(silu(hidden))))
        if self.bound is not None:
            pull = torch.tanh(pull) * self.bound
        length = (vec.square().sum(1, keepdim=True) + _TINY_SQUARE).sqrt()
        return _collect(vec * (-pull / (length + self.norm_constant)), graph, self.divisor)


class EDMBlock(nn.Module):
    """Rounds of messages, then one move, all with the distances at the start of the block."""

    def __init__(
        self,
        channels: int,
        num_edge_feats: int,
        *,
        inv_sublayers: int,
        attention: bool,
        bound: float | None,
        norm_constant: float,
        divisor: float | None,
    ) -> None:
        super().__init__()
        self.messages = nn.ModuleList(
            MessageLayer(channels, num_edge_feats, attention=attention, divisor=divisor) for _ in range(inv_sublayers)
        )
        self.move = CoordinateLayer(channels, num_edge_feats, bound=bound, norm_constant=norm_constant, divisor=divisor)

    def forward(
        self, feats: Float[Tensor, "N C"], vec: Float[Tensor, "E 3"], edge_feats: Float[Tensor, "E K"], graph: Graph
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N 3"]]:
        """New features, and displacements."""
        for layer in self.messages:
            feats = layer(feats, edge_feats, graph)
        return feats, self.move(feats, vec, edge_feats, graph)


def _collect(values: Float[Tensor, "E K"], graph: Graph, divisor: float | None) -> Float[Tensor, "N K"]:
    """Sum over the edges into each node by the divisor, or their mean where there is none."""
    total = sum_to_receivers(values, graph)
    if divisor is None:
        return total / graph.edge_ptr.diff().clamp(min=1).to(values.dtype)[:, None]
    return total if divisor == 1 else total / divisor


@torch.no_grad()
def _draw(weight: Tensor, bound: float) -> None:
    """Initial values with the bound that one Linear over the whole concatenation would draw from."""
    weight.uniform_(-bound, bound)
