"""Transformer: attention between atoms or points, on coordinates as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, config_of
from geomol.models.egnn_layer import EdgeState
from geomol.models.plain_inputs import (
    EDGE_INPUTS,
    PlainEdgeInputs,
    PlainNodeInputs,
    as_features,
    check_outputs,
    claim,
    mlp,
    node_coordinates,
)
from geomol.nn import LayerNorm, unit_variance
from geomol.ops import gather_receivers, gather_senders, segment_max, sum_to_receivers


class AttentionLayer(nn.Module):
    """One pre-norm block: attention to the neighbours and to oneself, then a two-layer network per node.

        s_ij = q_i · (k_j + k(a_ij)) / √d      s_ii = q_i · k_i / √d
        z_i = [e^{s_ii} v_i + Σ_j w_ij e^{s_ij} (v_j + v(a_ij))] / [e^{s_ii} + Σ_j w_ij e^{s_ij}]
        h_i ← h_i + W z_i      h_i ← h_i + MLP(norm h_i)

    with queries, keys and values of norm(h), and of the edge inputs a_ij. The window stands inside the softmax: a pair
    at the cutoff leaves numerator and denominator with zero slope and curvature, and the denominator is never 0,
    because the node itself is always among those it attends to. A softmax with the window outside would still change
    the weights of all others when a neighbour is dropped from its sum.
    """

    def __init__(self, channels: int, num_heads: int, ff_channels: int, num_edge_feats: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_mlp = LayerNorm(channels), LayerNorm(channels)
        self.from_nodes = nn.Linear(channels, 3 * channels)  # queries, keys, values
        self.from_edges = nn.Linear(num_edge_feats, 2 * channels)  # keys, values
        self.mix = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, ff_channels), nn.GELU(), nn.Linear(ff_channels, channels))

    def forward(self, feats: Float[Tensor, "N C"], edges: EdgeState, graph: Graph) -> Float[Tensor, "N C"]:
        width = feats.shape[1]
        query, key_value = self.from_nodes(self.norm_attention(feats)).split([width, 2 * width], dim=1)
        query = self._heads(query / math.sqrt(width // self.num_heads))
        own_key, own_value = (self._heads(x) for x in key_value.chunk(2, dim=1))
        # keys and values travel together: one gather, and one for its gradient
        pair_key_value = gather_senders(key_value, graph) + self.from_edges(edges.feats)
        key, value = (self._heads(x) for x in pair_key_value.chunk(2, dim=1))
        own_score = (query * own_key).sum(-1, keepdim=True)
        score = (gather_receivers(query, graph) * key).sum(-1, keepdim=True)
        own, weight = _windowed_exponentials(own_score, score, edges.window, graph)
        total = own + sum_to_receivers(weight, graph)
        out = (own * own_value + sum_to_receivers(weight * value, graph)) / total
        feats = feats + self.mix(out.flatten(1))
        new: Tensor = feats + self.mlp(self.norm_mlp(feats))
        return new

    def _heads(self, x: Float[Tensor, "R C"]) -> Float[Tensor, "R H D"]:
        return x.reshape(len(x), self.num_heads, x.shape[1] // self.num_heads)


def _windowed_exponentials(
    own_score: Float[Tensor, "N H 1"], score: Float[Tensor, "E H 1"], window: Float[Tensor, "E 1"] | None, graph: Graph
) -> tuple[Float[Tensor, "N H 1"], Float[Tensor, "E H 1"]]:
    """e^{s_ii − m_i} and w_ij e^{s_ij − m_i}, with m_i the largest score of the row, which cancels in the softmax."""
    seen = score.detach()
    if window is not None:
        # rounding may leave the window of a pair at the cutoff below 0; those beyond it must not set the scale
        window = window.clamp(min=0)[..., None]
        seen = torch.where(window == 0, -torch.inf, seen)
    largest = torch.maximum(own_score.detach(), segment_max(seen, graph.edge_ptr))
    shifted = score - gather_receivers(largest, graph)
    if window is None:
        return torch.exp(own_score - largest), torch.exp(shifted)
    # a score that does not count may exceed the largest one that does: its exponential must stay finite beside 0
    weight = window * torch.exp(torch.where(window == 0, 0.0, shifted))
    return torch.exp(own_score - largest), weight


class Transformer(nn.Module):
    """Pre-norm transformer with one token per node and attention along the edges of the graph.

    Coordinates enter the tokens ("absolute", "centred") or the keys and values of the pairs ("relative"), as plain
    numbers, beside radial functions and charge products. The blocks are those of `AttentionLayer`; a last norm and
    Linear SiLU Linear give the outputs.

    Source: Vaswani et al., NeurIPS 2017 (arXiv:1706.03762); pre-norm form of Xiong et al., ICML 2020
    (arXiv:2002.04745); pairs in keys and values as in Shaw et al. (arXiv:1803.02155). Departs from them: attention
    follows the edges, and a window inside the softmax makes it smooth at the cutoff, so that it can serve in a
    potential. The network of all pairs of nodes as tokens, as published for the n-body task, is `PairTransformer`.

    Symmetry: permutations; translations ("relative", exactly; "centred" too, but then far structures feel each other);
    no rotations. Vectors are numbers in the lab frame.

    Args:
        elements: atomic numbers that enter as one-hot vectors.
        in_scalars: columns of `graph.node_scalars`; with "charge_product" the last is the charge and enters edges only.
        in_vectors: vectors of `graph.node_vectors`, which enter as three numbers each.
        out_scalars: scalars per node.
        out_vectors: vectors per node.
        predicts: "displacement", or "position", see `MPNN`.
        coordinates: "relative", "centred" (on the centroid of the structure) or "absolute".
        channels: width C, a multiple of num_heads.
        num_heads: attention heads.
        ff_channels: hidden width of the network per node; 0 stands for 2 C.
        num_layers: number of blocks.
        cutoff: radius of the graph, Å; inf for complete or given graphs.
        envelope: smooth cutoff, w above; 1 without.
        num_radial: Bessel functions of the distance, 0 for none.
        edge_inputs: of "charge_product" (q_i q_j) and "squared_distance", in this order.

    Raises:
        ConfigError: settings that contradict each other, or a graph whose inputs do not fit them.
        ModelDomainError: at call, a periodic structure with absolute or centred coordinates.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        in_vectors: int = 0,
        out_scalars: int = 1,
        out_vectors: int = 0,
        predicts: str = "displacement",
        coordinates: str = "relative",
        channels: int = 64,
        num_heads: int = 4,
        ff_channels: int = 0,
        num_layers: int = 4,
        cutoff: float = 5.0,
        envelope: bool = True,
        num_radial: int = 8,
        edge_inputs: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff, self.coordinates, self.predicts = float(cutoff), coordinates, predicts
        self.in_vectors, self.out_scalars, self.out_vectors = in_vectors, out_scalars, out_vectors
        complete = math.isinf(self.cutoff)
        self.symmetry = claim(coordinates, smooth=envelope or complete, separable=not complete)
        check_outputs(predicts, coordinates, out_scalars, out_vectors)
        if num_heads < 1 or channels % num_heads:
            raise ConfigError("channels must be a multiple of num_heads", got=f"{channels} and {num_heads}")
        self.node_inputs = PlainNodeInputs(
            elements, in_scalars, in_vectors, coordinates=coordinates, charge=EDGE_INPUTS[0] in edge_inputs
        )
        self.edge_inputs = PlainEdgeInputs(
            edge_inputs, coordinates=coordinates, cutoff=self.cutoff, num_radial=num_radial, envelope=envelope
        )
        self.embed = nn.Linear(self.node_inputs.num_features, channels)
        self.layers = nn.ModuleList(
            AttentionLayer(channels, num_heads, ff_channels or 2 * channels, self.edge_inputs.num_features)
            for _ in range(num_layers)
        )
        self.norm = LayerNorm(channels)
        self.readout = mlp(channels, channels, out_scalars + 3 * out_vectors)

    def forward(self, graph: Graph) -> Features:
        """Scalars per node, and vectors in the frame of the coordinates."""
        dtype = self.embed.weight.dtype
        edges = self.edge_inputs(graph, edge_vectors(graph, dtype))
        feats: Float[Tensor, "N C"] = self.embed(self.node_inputs(graph, dtype))
        for layer in self.layers:
            feats = layer(feats, edges, graph)
        origin = node_coordinates(graph, self.coordinates) if self.predicts == "position" else None
        return as_features(self.readout(self.norm(feats)), self.out_scalars, origin)

    def calibrate(self, graph: Graph) -> None:
        """Gives the linear layers of an untrained network unit output on a typical batch, see `unit_variance`."""
        unit_variance(self, lambda: self(graph))
