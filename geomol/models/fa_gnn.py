"""FA-GNN: a plain message-passing network on coordinates, seen from frames that are renewed in every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol.errors import ConfigError
from geomol.geometry.frames import eigh, frame_signs, principal_axes
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, Symmetry, config_of
from geomol.nn import unit_variance
from geomol.ops import gather_receivers, gather_senders, segment_mean, segment_sum, sum_to_receivers

EDGE_INPUTS = ("charge_product", "squared_distance")


class FAGNN(nn.Module):
    """Frame-averaged graph network for particles with velocities; predicts where they go.

    With U a frame of the centred positions (columns are principal axes, all signs) and t their mean:

        h_i = W [Uᵀ(x_i − t), Uᵀ v_i]      m_ij = φ_e(h_i, h_j, a_ij)      h_i ← h_i + φ_h(h_i, Σ_j m_ij)

    Between layers h_i is read as C / 3 vectors, which are turned back by U and averaged over the frames; the principal
    axes of all these vectors of all particles give the next frames, from which the vectors (less their mean) are seen
    again. Output: x_i ← t + ⟨U φ_o(h_i)⟩.

    Source: Puny et al., ICLR 2022 (arXiv:2110.03336), section 5 and the authors' code. Departs from it: predicts the
    displacement from the present position; frames of SE(3) as an option; the first linear map of each network is
    applied per node. As published, frames count as constants in derivatives.

    Symmetry: equivariant under E(3) or SE(3), exactly, where principal moments differ; not continuous where two of them
    cross; permutation equivariant.

    Args:
        elements: must be empty: particles are told apart by their charges only.
        in_scalars: columns of `graph.node_scalars`; the last is the charge.
        in_vectors: 1; velocities come from `graph.node_vectors[:, 0]`.
        out_vectors: 1: the displacement.
        channels: width C, a multiple of 3.
        num_layers: rounds of messages.
        cutoff: radius of the graph, Å; inf for complete graphs.
        edge_inputs: of "charge_product" (q_i q_j) and "squared_distance" (of the given positions), in this order.
        in_edge_scalars: number of given edge attributes, the `edge_scalars` of `forward`.
        group: "E(3)", with 8 frames, or "SE(3)", with 4.

    Raises:
        ConfigError: settings that contradict each other, or a graph whose inputs do not fit them.
    """

    signs: Tensor

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 1,
        in_vectors: int = 1,
        out_vectors: int = 1,
        channels: int = 60,
        num_layers: int = 4,
        cutoff: float = math.inf,
        edge_inputs: Sequence[str] = EDGE_INPUTS,
        in_edge_scalars: int = 0,
        group: str = "E(3)",
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        if channels % 3 or channels < 3:
            raise ConfigError("channels are read as vectors", expected="a multiple of 3", got=str(channels))
        if elements or in_vectors != 1 or out_vectors != 1:
            raise ConfigError("an FA-GNN reads positions, velocities and charges, and predicts one displacement")
        if group not in ("E(3)", "SE(3)"):
            raise ConfigError("unknown group", expected="E(3) or SE(3)", got=group)
        if not set(edge_inputs) <= set(EDGE_INPUTS):
            raise ConfigError("unknown edge_inputs", expected=f"of {EDGE_INPUTS}", got=str(edge_inputs))
        self.cutoff, self.group, self.in_scalars, self.in_edge_scalars = cutoff, group, in_scalars, in_edge_scalars
        self.edge_inputs = [name for name in EDGE_INPUTS if name in edge_inputs]
        self.symmetry = Symmetry(group, exact=True, smooth=math.isinf(cutoff), continuous=False, separable=False)
        self.register_buffer("signs", frame_signs("O(3)" if group == "E(3)" else "SO(3)"), persistent=False)
        self.embed = nn.Linear(6, channels)
        num_edge_inputs = len(self.edge_inputs) + in_edge_scalars
        self.layers = nn.ModuleList(_Layer(channels, num_edge_inputs) for _ in range(num_layers))
        self.readout = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 3))

    def forward(self, graph: Graph, *, edge_scalars: Float[Tensor, "E A"] | None = None) -> Features:
        """Displacement of each particle; as scalars the features of the last layer, averaged over the frames.

        Args:
            graph: inputs as declared in the constructor.
            edge_scalars: given edge attributes, in the order of the edges of `graph`.
        """
        dtype = self.embed.weight.dtype
        velocity = self._velocity(graph).to(dtype)
        edges = self._edge_inputs(graph, edge_scalars, dtype)
        signs = self.signs.to(dtype)
        found = principal_axes(graph.pos, graph.ptr)
        rel = (graph.pos - found.origin[graph.batch]).to(dtype)
        axes = self._handed(found.axes).to(dtype)[graph.batch]  # (N, 3, 3)
        seen = torch.stack([rel, velocity], dim=1) @ axes  # (N, 2, 3)
        feats = self.embed((seen[:, None] * signs[:, None]).flatten(2))  # (N, F, C)
        for number, layer in enumerate(self.layers):
            if number > 0:
                axes, feats = self._renew(self.latent_vectors(feats, axes), graph)
            feats = layer(feats, edges, graph)
        moved = torch.einsum("nfk,fk,nxk->nx", self.readout(feats), signs, axes) / len(signs)
        return Features(feats.mean(1), (moved - rel)[:, None])

    def calibrate(self, graph: Graph) -> None:
        """Gives the linear layers of an untrained network unit output on a typical batch, see `unit_variance`."""
        unit_variance(self, lambda: self(graph))

    def latent_vectors(self, feats: Float[Tensor, "N F C"], axes: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N V 3"]:
        """Features read as vectors, turned back and averaged over the frames."""
        vectors = feats.view(*feats.shape[:2], -1, 3) * self.signs.to(feats.dtype)[:, None]  # (N, F, V, 3)
        out: Tensor = vectors.mean(1) @ axes.mT
        return out

    def _renew(
        self, vectors: Float[Tensor, "N V 3"], graph: Graph
    ) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N F C"]]:
        """Frames of all vectors of a structure, one for each node, and the centred vectors seen from them."""
        rel = vectors - segment_mean(vectors.mean(1), graph.ptr)[graph.batch][:, None]
        scatter = segment_sum(rel.detach().mT @ rel.detach(), graph.ptr)
        axes = self._handed(eigh(scatter.double())[1]).to(rel.dtype)[graph.batch]
        seen = (rel @ axes)[:, None] * self.signs.to(rel.dtype)[:, None]  # (N, F, V, 3)
        return axes, seen.flatten(2)

    def _handed(self, axes: Float[Tensor, "G 3 3"]) -> Float[Tensor, "G 3 3"]:
        """Axes of determinant +1 for SE(3); for E(3) the signs contain both kinds anyway."""
        return axes * torch.linalg.det(axes).sign()[:, None, None] if self.group == "SE(3)" else axes

    def _velocity(self, graph: Graph) -> Float[Tensor, "N 3"]:
        got = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
        if graph.node_vectors is None or got != 1:
            raise ConfigError("`node_vectors` does not fit the model", expected="1 vector", got=str(got))
        return graph.node_vectors[:, 0]

    def _edge_inputs(self, graph: Graph, given: Tensor | None, dtype: torch.dtype) -> Float[Tensor, "E A"]:
        count = 0 if given is None else given.shape[1]
        if count != self.in_edge_scalars:
            raise ConfigError(
                "`edge_scalars` does not fit the model", expected=f"{self.in_edge_scalars} columns", got=str(count)
            )
        got = 0 if graph.node_scalars is None else graph.node_scalars.shape[1]
        if got != self.in_scalars:
            raise ConfigError(
                "`node_scalars` does not fit the model", expected=f"{self.in_scalars} columns", got=str(got)
            )
        parts = []
        if "charge_product" in self.edge_inputs:
            if graph.node_scalars is None:
                raise ConfigError("charge_product needs the charge as the last of in_scalars columns", got="none")
            charge = graph.node_scalars[:, -1:].to(dtype)
            parts.append(gather_senders(charge, graph) * gather_receivers(charge, graph))
        if "squared_distance" in self.edge_inputs:
            parts.append(edge_vectors(graph, dtype).square().sum(1, keepdim=True))
        if given is not None:
            parts.append(given.to(dtype))
        return torch.cat(parts, dim=1) if parts else graph.pos.new_zeros(graph.num_edges, 0, dtype=dtype)


class _Layer(nn.Module):
    """One round of messages in all frames at once.

    The first linear maps of φ_e and φ_h act on [h_i, h_j, a_ij] and [h_i, Σ m]; they are split exactly, so that the
    parts acting on h are computed per node in one product.
    """

    def __init__(self, channels: int, num_edge_inputs: int) -> None:
        super().__init__()
        self.from_nodes = nn.Linear(channels, 3 * channels, bias=False)  # rows: receiver, sender, own update
        self.from_edges = nn.Linear(num_edge_inputs, channels)
        self.message = nn.Linear(channels, channels)
        self.from_sum = nn.Linear(channels, channels)
        self.update = nn.Linear(channels, channels)
        # the bounds that one Linear over each whole concatenation would draw from
        edge_bound, node_bound = 1 / math.sqrt(2 * channels + num_edge_inputs), 1 / math.sqrt(2 * channels)
        nn.init.uniform_(self.from_nodes.weight[: 2 * channels], -edge_bound, edge_bound)
        nn.init.uniform_(self.from_nodes.weight[2 * channels :], -node_bound, node_bound)
        for part, bound in ((self.from_edges, edge_bound), (self.from_sum, node_bound)):
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.uniform_(part.bias, -bound, bound)

    def forward(
        self, feats: Float[Tensor, "N F C"], edge_inputs: Float[Tensor, "E A"], graph: Graph
    ) -> Float[Tensor, "N F C"]:
        receiver, sender, own = self.from_nodes(feats).chunk(3, dim=2)
        hidden = gather_receivers(receiver, graph) + gather_senders(sender, graph)  # (E, F, C)
        message = silu(self.message(silu(hidden + self.from_edges(edge_inputs)[:, None])))
        total = sum_to_receivers(message, graph)
        out: Tensor = feats + self.update(silu(self.from_sum(total) + own))
        return out
