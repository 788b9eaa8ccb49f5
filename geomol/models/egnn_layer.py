"""The layer of EGNN: messages along edges, the node features and the steps of the nodes that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol.graph import Graph
from geomol.ops import gated_messages, gather_receivers, gather_senders, sum_to_receivers
from geomol.ops.fused_messages import has_kernels

SCALINGS = ("none", "normalize", "norm_diff")

_COORD_GAIN = 1e-3  # Xavier gain of the last coordinate layer in the authors' code: positions start almost at rest
_NORMALIZE_OFFSET = 1e-8  # Å, as in the authors' code
MESSAGES_IN_BLOCKS = 4_000_000  # numbers; fewer fit into the caches, and keeping them is faster


@dataclass(frozen=True, eq=False)
class EdgeState:
    """What a layer knows of the edges.

    Attributes:
        feats: radial functions (or the squared distance) and edge attributes.
        vec: from receiver to sender, Å.
        length: its length, never exactly 0, Å.
        window: factor on every message that vanishes at the cutoff; None where there is no envelope.
    """

    feats: Float[Tensor, "E K"]
    vec: Float[Tensor, "E 3"]
    length: Float[Tensor, " E"]
    window: Float[Tensor, "E 1"] | None


class EGNNLayer(nn.Module):
    """One round of messages.

    The first linear map of the edge network acts on [h_i, h_j, a_ij]. It is split exactly,
    W [h_i, h_j, a] = A h_i + B h_j + R a, with A and B applied per node: no array of shape (E, 2C + …) exists.
    The part of the node network that acts on h_i is computed in the same product.
    """

    def __init__(
        self,
        channels: int,
        num_edge_feats: int,
        *,
        num_node_attrs: int,
        update_pos: bool,
        velocity: bool,
        attention: bool,
        residual: bool,
        tanh: bool,
        scaling: str,
    ) -> None:
        super().__init__()
        self.residual, self.scaling = residual, scaling
        self.from_nodes = nn.Linear(channels, 3 * channels, bias=False)  # rows: receiver, sender, own update
        self.from_edges = nn.Linear(num_edge_feats, channels)
        self.message = nn.Linear(channels, channels)
        self.gate = nn.Linear(channels, 1) if attention else None
        self.from_sum = nn.Linear(channels + num_node_attrs, channels)
        self.update = nn.Linear(channels, channels)
        self.pull: nn.Module | None = None
        self.keep: nn.Module | None = None
        if update_pos:
            last = nn.Linear(channels, 1, bias=False)
            nn.init.xavier_uniform_(last.weight, gain=_COORD_GAIN)
            self.pull = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), last, *([nn.Tanh()] if tanh else []))
        if velocity:
            self.keep = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))
        self._draw_as_if_not_split(channels, num_edge_feats, num_node_attrs)

    def _draw_as_if_not_split(self, channels: int, num_edge_feats: int, num_node_attrs: int) -> None:
        """Initial values with the bounds that one Linear over each whole concatenation would draw from."""
        edge_bound = 1 / math.sqrt(2 * channels + num_edge_feats)
        node_bound = 1 / math.sqrt(2 * channels + num_node_attrs)
        nn.init.uniform_(self.from_nodes.weight[: 2 * channels], -edge_bound, edge_bound)
        nn.init.uniform_(self.from_nodes.weight[2 * channels :], -node_bound, node_bound)
        for part, bound in ((self.from_edges, edge_bound), (self.from_sum, node_bound)):
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.uniform_(part.bias, -bound, bound)

    def forward(
        self, feats: Float[Tensor, "N C"], edges: EdgeState, attrs: Float[Tensor, "N S"] | None, graph: Graph
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, "E C"] | None]:
        """New node features, and the messages (gated and windowed) that they come from, where these were kept."""
        receiver, sender, own = self.from_nodes(feats).chunk(3, dim=1)
        if self._better_in_blocks(edges, sender):
            message: Tensor | None = None  # nodes stay where they are, so nobody reads them
            total = self._sum_in_blocks(receiver, sender, edges, graph)
        else:
            message = self._messages(receiver, sender, edges, graph)
            total = sum_to_receivers(message, graph)
        if attrs is not None:
            total = torch.cat([total, attrs], dim=1)
        new = self.update(silu(self.from_sum(total) + own))
        return (feats + new if self.residual else new), message

    def _messages(self, receiver: Tensor, sender: Tensor, edges: EdgeState, graph: Graph) -> Float[Tensor, "E C"]:
        hidden = self.from_edges(edges.feats) + gather_receivers(receiver, graph) + gather_senders(sender, graph)
        message: Tensor = silu(self.message(silu(hidden)))
        window = edges.window
        if self.gate is not None:
            gate = torch.sigmoid(self.gate(message))
            window = gate if window is None else gate * window
        return message if window is None else message * window

    def _better_in_blocks(self, edges: EdgeState, sender: Tensor) -> bool:
        """Whether to recompute messages block by block rather than to keep them, which is faster while they are few.

        On a CUDA device the blocks are those of fused kernels, which hold them in registers, however many there are.
        """
        if self.pull is not None or edges.window is None:
            return False
        if has_kernels(sender, edges.feats, edges.window, self.message.weight):
            return True
        is_trained = self.message.weight.requires_grad and not sender.is_cuda
        return is_trained and edges.feats.shape[0] * sender.shape[1] >= MESSAGES_IN_BLOCKS

    def _sum_in_blocks(self, receiver: Tensor, sender: Tensor, edges: EdgeState, graph: Graph) -> Float[Tensor, "N C"]:
        """What `sum_to_receivers` of `_messages` gives, without an array of their size."""
        assert edges.window is not None
        gate = None if self.gate is None else (self.gate.weight, self.gate.bias)
        first = self.from_edges.weight, self.from_edges.bias
        second = self.message.weight, self.message.bias
        return gated_messages(receiver, sender, edges.feats, edges.window, first, second, gate, graph)

    def step(
        self,
        feats: Float[Tensor, "N C"],
        message: Float[Tensor, "E C"],
        edges: EdgeState,
        velocity: Float[Tensor, "N 3"] | None,
        graph: Graph,
    ) -> Float[Tensor, "N 3"]:
        """Displacement of each node: φ_v(h) v⁰ and the pull of its neighbours.

        The pull is the mean over neighbours, or with an envelope their windowed sum. `feats` entered the layer.
        """
        assert self.pull is not None
        pull = edges.vec * -self.pull(message)  # x_i − x_j is minus the vector from receiver to sender
        if self.scaling != "none":
            by = edges.length.detach() + _NORMALIZE_OFFSET if self.scaling == "normalize" else edges.length + 1
            pull = pull / by[:, None]
        if edges.window is not None:
            step = sum_to_receivers(pull * edges.window, graph)
        else:
            degree = graph.edge_ptr.diff().clamp(min=1).to(pull.dtype)
            step = sum_to_receivers(pull, graph) / degree[:, None]
        return step if self.keep is None or velocity is None else self.keep(feats) * velocity + step
