"""The rounds of messages of FAENet, and the heads that read its features."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol.graph import Graph
from geomol.nn import LayerNorm
from geomol.ops import conv, gather_receivers, gather_senders, segment_mean, sum_to_receivers

MESSAGES = ("simple", "base", "updownscale", "updownscale_base", "updown_local_env")
VECTOR_HEADS = ("mlp", "res", "res_updown")
VECTOR_NORMS = ("none", "layer", "batch")


class Interaction(nn.Module):
    """One round: h_i ← h_i + update(Σ_j f(e_ij, h_j, h_i) ∘ down(h_j)).

        simple            filters e_ij as they are, no down; update = swish(Linear)
        base              filters swish(Linear [e_ij, h_j, h_i]) of full width, no down; update = swish(Linear)
        updownscale       filters swish(Linear e_ij); down = swish(Linear) to fewer channels; update = swish(Linear)
        updownscale_base  the same with filters from [e_ij, h_j, h_i]
        updown_local_env  filters Linear e_ij; update = Linear [sum, Σ_j e_ij]

    Source: Duval et al., ICML 2023 (arXiv:2305.05577), eq. 8 and appendix; the variants as in the authors' code. The
    Linear over [e_ij, h_j, h_i] is split exactly, so that node features are multiplied once per node, not per edge.

    Args:
        channels: width of the node features.
        filters: width of the edge features.
        message: one of `MESSAGES`; "simple" needs filters = channels.
        deep: one more Linear and swish in the update.
        graph_norm: `GraphNorm` and swish on the sums.
        product: False leaves down(h_j) out of the messages and sums the filters alone.
    """

    def __init__(
        self, channels: int, filters: int, *, message: str, deep: bool, graph_norm: bool, product: bool
    ) -> None:
        super().__init__()
        down, local = message.startswith("updown"), message == "updown_local_env"
        width = filters if down else channels
        self.from_edges = nn.Linear(filters, width) if message != "simple" else None
        # rows: sender, receiver
        self.from_nodes = nn.Linear(channels, 2 * width, bias=False) if message.endswith("base") else None
        self.down = nn.Linear(channels, width) if down and product else None
        self.norm = GraphNorm(width) if graph_norm else None
        self.up = nn.Linear(2 * width if local else width, channels)
        self.extra = nn.Linear(channels, channels) if deep else None
        self.local, self.product = local, product
        for layer in (self.from_edges, self.down, self.up, self.extra):
            if layer is not None:
                xavier(layer)
        if self.from_edges is not None and self.from_nodes is not None:
            # the bound that one Linear over the whole concatenation would draw from
            bound = math.sqrt(6 / (filters + 2 * channels + width))
            for layer in (self.from_edges, self.from_nodes):
                nn.init.uniform_(layer.weight, -bound, bound)

    def forward(
        self,
        feats: Float[Tensor, "N C"],
        edges: Float[Tensor, "E F"],
        window: Float[Tensor, "E 1"] | None,
        graph: Graph,
    ) -> Float[Tensor, "N C"]:
        """New features; `window` multiplies every message and vanishes at the cutoff."""
        filters = self._filters(feats, edges, graph)
        if window is not None:
            filters = filters * window
        if self.product:
            total = conv(feats if self.down is None else silu(self.down(feats)), filters, graph)
        else:
            total = sum_to_receivers(filters, graph)
        if self.norm is not None:
            total = silu(self.norm(total, graph))
        if self.local:
            around = sum_to_receivers(edges if window is None else edges * window, graph)
            new = self.up(torch.cat([total, around], dim=1))
        else:
            new = silu(self.up(total))
        if self.extra is not None:
            new = silu(self.extra(new))
        out: Tensor = feats + new
        return out

    def _filters(self, feats: Tensor, edges: Tensor, graph: Graph) -> Float[Tensor, "E W"]:
        if self.from_edges is None:
            return edges
        out: Tensor = self.from_edges(edges)
        if self.from_nodes is not None:
            sender, receiver = self.from_nodes(feats).chunk(2, dim=1)
            out = out + gather_senders(sender, graph) + gather_receivers(receiver, graph)
        return out if self.local else silu(out)


class GraphNorm(nn.Module):
    """Each channel shifted by a learned part of its mean over the structure, and scaled to unit mean square.

    Source: Cai et al., ICML 2021 (arXiv:2009.03294). Not separable: atoms feel the whole structure.
    """

    EPSILON = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean_scale = nn.Parameter(torch.ones(channels))

    def forward(self, values: Float[Tensor, "N C"], graph: Graph) -> Float[Tensor, "N C"]:
        centred = values - (segment_mean(values, graph.ptr) * self.mean_scale)[graph.batch]
        spread = (segment_mean(centred.square(), graph.ptr) + self.EPSILON).sqrt()
        out: Tensor = self.weight * centred / spread[graph.batch] + self.bias
        return out


class ScalarHead(nn.Module):
    """Linear swish Linear per node, at half the width."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels // 2)
        self.out = nn.Linear(channels // 2, out)

    def forward(self, feats: Float[Tensor, "*S C"]) -> Float[Tensor, "*S O"]:
        out: Tensor = self.out(silu(self.hidden(feats)))
        return out


class VectorHead(nn.Module):
    """The three components of a vector per node as plain numbers: in the axes of the input, not equivariant.

        mlp         Linear norm swish Linear
        res         the same after h + (Linear norm swish)² h
        res_updown  the same after h + (Linear norm swish)³ h, with the first two at width `hidden`

    Source: `ForceDecoder` of the authors' code (its "simple" is "mlp" without norm).
    """

    def __init__(self, channels: int, hidden: int, *, kind: str, norm: str) -> None:
        super().__init__()
        widths = {"mlp": [], "res": [channels, channels], "res_updown": [hidden, hidden, channels]}[kind]
        starts = [channels, *widths[:-1]]
        self.residual = nn.Sequential(*(_step(a, b, norm) for a, b in zip(starts, widths, strict=False)))
        self.out = nn.Sequential(_step(channels, hidden, norm), nn.Linear(hidden, 3))

    def forward(self, feats: Float[Tensor, "N C"]) -> Float[Tensor, "N 3"]:
        out: Tensor = self.out(feats + self.residual(feats) if len(self.residual) else feats)
        return out


def _step(channels: int, out: int, norm: str) -> nn.Sequential:
    layer = {"none": nn.Identity, "layer": LayerNorm, "batch": nn.BatchNorm1d}[norm]
    return nn.Sequential(nn.Linear(channels, out), layer(out), nn.SiLU())


def xavier(layer: nn.Linear) -> nn.Linear:
    """Uniform Xavier weights and zero bias, as in the authors' code."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
