"""ConditionedEGNN: all pairs of a structure, moving positions, vector features, and layers modulated by conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import Graph
from geomol.models.base import Features, Symmetry, config_of
from geomol.nn import LayerNorm, NodeInputs
from geomol.nn.dense import DenseLayout

_TINY_SQUARE = 1e-12  # under the root of distances: a finite gradient for coincident points


class ExponentialBasis(nn.Module):
    """exp(−β (e^{−d} − μ_k)²), μ_k evenly spaced in (0, 1]: fine at short distances, coarse at long ones.

    Source: Unke, Meuwly, JCTC 2019 (arXiv:1902.08408), eq. 7, without its cutoff function.
    """

    centres: Tensor

    def __init__(self, num: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(1 / num, 1, num), persistent=False)
        self.sharpness = (num / 2) ** 2

    def forward(self, distance: Float[Tensor, "*B"]) -> Float[Tensor, "*B K"]:
        return torch.exp(-self.sharpness * (torch.exp(-distance)[..., None] - self.centres).square())


class ConditionedLayer(nn.Module):
    """One round of messages between all pairs.

    h' = (1 + s(c)) norm(h) + b(c)
    m_ij = silu W₂ silu(A h'_i + B h'_j + R(d_ij, …)),  g_ij = sigmoid(w · m_ij)
    u_i ← u_i + Σ_j a(m_ij) r̂_ij / √n + M u'_i,   h_i ← h_i + φ(h'_i, Σ_j g_ij m_ij / √n, |M' u_i|)
    x_i ← x_i + P u_i
    """

    def __init__(
        self,
        channels: int,
        pair_channels: int,
        num_vectors: int,
        num_radial: int,
        cond: int,
        *,
        bf16: bool = False,
        softness: float = 1e-6,
    ) -> None:
        super().__init__()
        self.bf16, self.softness = bf16, softness
        self.modulate = nn.Linear(cond, 2 * channels)
        self.from_nodes = nn.Linear(channels, 2 * pair_channels)
        self.from_pairs = nn.Linear(num_radial, pair_channels, bias=False)
        self.message = nn.Linear(pair_channels, pair_channels)
        self.to_pull = nn.Linear(pair_channels, 1 + num_vectors)
        self.mix = nn.Linear(num_vectors, 2 * num_vectors, bias=False)
        self.update = nn.Sequential(
            nn.Linear(channels + pair_channels + num_vectors, 2 * channels),
            nn.SiLU(),
            nn.Linear(2 * channels, channels),
        )
        self.to_pos = nn.Linear(num_vectors, 1, bias=False)
        for layer in (self.modulate, self.to_pos, self.update[2]):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.modulate.bias)

    def forward(
        self,
        feats: Float[Tensor, "G n C"],
        vectors: Float[Tensor, "G n 3 V"],
        cond: Float[Tensor, "G D"],
        radial: Float[Tensor, "G n n K"],
        unit: Float[Tensor, "G n n 3"],
        share: Float[Tensor, "G n n 1"],
    ) -> tuple[Float[Tensor, "G n C"], Float[Tensor, "G n 3 V"], Float[Tensor, "G n 3"]]:
        """New features and vectors, and the step of each node; `share` is 1/√n for pairs and 0 for all else."""
        scale, shift = self.modulate(cond)[:, None].chunk(2, dim=-1)
        normed = layer_norm(feats, feats.shape[-1:]) * (1 + scale) + shift
        # half precision inside the networks of pairs alone: distances, positions and sums keep all their digits
        with torch.autocast(feats.device.type, torch.bfloat16, enabled=self.bf16):
            receiver, sender = self.from_nodes(normed).chunk(2, dim=-1)
            hidden = self.from_pairs(radial) + receiver[:, :, None] + sender[:, None]
            message = silu(self.message(silu(hidden)))
            told = self.to_pull(message)
        message, told = message.to(feats.dtype), told.to(feats.dtype)
        gate, pull = told.split([1, vectors.shape[-1]], dim=-1)
        weight = torch.sigmoid(gate) * share
        # sums over senders as matrix products: nothing of the size of the messages is written
        total = (weight.mT.flatten(0, 1) @ message.flatten(0, 1))[:, 0].view(*feats.shape[:2], -1)
        pulled = ((unit * share).mT.flatten(0, 1) @ pull.flatten(0, 1)).view(*feats.shape[:2], 3, -1)
        mixed, probe = self.mix(vectors + pulled).chunk(2, dim=-1)
        vectors = vectors + pulled + mixed
        length = (probe.square().sum(-2) + self.softness**2).sqrt()
        feats = feats + self.update(torch.cat([normed, total, length], dim=-1))
        return feats, vectors, self.to_pos(vectors)[..., 0]


class ConditionedEGNN(nn.Module):
    """E(3)-equivariant network on all pairs, told in every layer what holds for the whole structure.

    Nodes carry invariant features, a few vectors and a position; pairs carry messages of their own, narrower width,
    since there are many more of them. See `ConditionedLayer` for the equations. Made for denoising: the conditions are
    the noise level, the number of atoms or a property, and vectors that come in lead to an earlier estimate of the
    positions, whose distances every message sees (self-conditioning).

    Source: EGNN (Satorras et al. 2021, arXiv:2102.09844) with the vector features of PaiNN (Schütt et al. 2021,
    arXiv:2102.03150) and the adaptive layer norm of DiT (Peebles, Xie 2023, arXiv:2212.09748), all starting as the
    identity. Departures: sums over neighbours are divided by √n; pairs are all pairs, held in padded blocks.

    Symmetry: scalars invariant, vectors equivariant under E(3), exactly; permutation equivariant. The edges of the
    graph are not read: all pairs of a structure count, at any distance, so structures must be finite.

    Args:
        elements: atomic numbers that enter as one-hot vectors.
        in_scalars: columns of `graph.node_scalars`, the conditions included.
        num_conditions: how many of them, the last ones, are conditions: equal for all nodes of a structure.
        step_condition: the last condition is a length: positions move by it times what a layer says, and displacements
            come out in units of it. A network that tells small noise from large moves by steps of that size.
        in_vectors: 1 if `graph.node_vectors[:, 0]` leads from each node to its place in an earlier estimate.
        out_scalars: scalars per node.
        out_vectors: 1: displacement of each node; 0.
        channels: width of node features.
        pair_channels: width of messages.
        num_vectors: vector features per node.
        num_layers: rounds of messages.
        num_radial: radial functions.
        length_unit: distances are measured in this unit, Å (1 where positions come scaled).
        softness: η in |u| = √(u² + η²) of vector features. Where symmetry makes one vanish, features have a kink of
            that width: harmless in a denoiser; a few tenths give energies that are smooth there too.
        bf16: whether the networks of pairs compute in bfloat16.
        widths: ascending; blocks are padded to the next of these, where few shapes are wanted.

    Raises:
        ConfigError: settings that contradict each other, or a graph whose inputs do not fit them.
        ModelDomainError: at call, a periodic structure.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        num_conditions: int = 0,
        update_pos: bool = True,
        step_condition: bool = False,
        in_vectors: int = 0,
        out_scalars: int = 1,
        out_vectors: int = 0,
        channels: int = 128,
        pair_channels: int = 48,
        num_vectors: int = 12,
        num_layers: int = 6,
        num_radial: int = 20,
        length_unit: float = 1.0,
        softness: float = 1e-6,
        bf16: bool = False,
        widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff = math.inf
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=True, separable=False)
        self.num_conditions, self.step_condition, self.in_vectors = num_conditions, step_condition, in_vectors
        self.out_vectors, self.num_vectors, self.length_unit = out_vectors, num_vectors, length_unit
        self.bf16, self.widths, self.compiled = bf16, tuple(widths), False
        if in_vectors not in (0, 1) or out_vectors not in (0, 1):
            raise ConfigError("in_vectors and out_vectors are 0 or 1")
        if not int(step_condition) <= num_conditions <= in_scalars:
            raise ConfigError(
                "num_conditions counts the last of in_scalars columns", got=f"{num_conditions} of {in_scalars}"
            )
        if not (softness > 0 and length_unit > 0):
            raise ConfigError("softness and length_unit must be positive", got=f"{softness} and {length_unit}")
        self.inputs = NodeInputs(elements, in_scalars - num_conditions)
        if self.inputs.num_features == 0:
            raise ConfigError("node inputs are needed", remedy="give elements or in_scalars beyond the conditions")
        self.embed = nn.Linear(self.inputs.num_features, channels)
        self.embed_cond = nn.Sequential(nn.Linear(max(1, num_conditions), channels), nn.SiLU())
        self.basis = ExponentialBasis(num_radial)
        width = num_radial * (1 + in_vectors)
        self.layers = nn.ModuleList(
            ConditionedLayer(channels, pair_channels, num_vectors, width, channels, bf16=bf16, softness=softness)
            for _ in range(num_layers)
        )
        self.readout = nn.Sequential(LayerNorm(channels), nn.Linear(channels, channels), nn.SiLU())
        self.to_scalars = nn.Linear(channels, out_scalars) if out_scalars else None

    def compile_parts(self) -> None:
        """Compiles the layers, once for blocks of all numbers and widths.

        Code for each shape is a few percent faster at best (measured on a CPU), and a run meets some twenty: as many
        compilations, and beyond eight PyTorch gives up and runs new shapes as they stand.
        """
        self.compiled = True
        for layer in self.layers:
            layer.compile()

    def forward(self, graph: Graph) -> Features:
        """Scalars per node, and displacements (Å) where asked for."""
        if graph.is_periodic:
            raise ModelDomainError(
                "a network on all pairs cannot read a periodic structure", remedy="use a model with a finite cutoff"
            )
        dtype = self.embed.weight.dtype
        layout = DenseLayout.of(graph.ptr, self.widths)
        nodes, cond = self._inputs(graph, dtype)
        start = layout.pad(_local(graph, dtype)) / self.length_unit
        share = layout.pairs().to(dtype)[..., None] / layout.present.sum(1).sqrt().to(dtype)[:, None, None, None]
        earlier = self._earlier(graph, layout, start)
        feats = layout.pad(self.embed(nodes))
        pos, moved = start, torch.zeros_like(start)
        unit_step = self._step(graph, dtype)
        vectors = feats.new_zeros(*feats.shape[:2], 3, self.num_vectors)
        for number, layer in enumerate(self.layers):
            if number == 0 or self.config["update_pos"]:
                unit, radial = self._pairs(pos)
                radial = radial if earlier is None else torch.cat([radial, earlier], dim=-1)
            blocks = (feats, vectors, cond, radial, unit, share)
            if self.compiled:
                _leave_sizes_open(*blocks)
            feats, vectors, step = layer(*blocks)
            moved = moved + step
            pos = start + unit_step * moved
        hidden = self.readout(layout.flatten(feats))
        scalars = hidden[:, :0] if self.to_scalars is None else self.to_scalars(hidden)
        if not self.out_vectors:
            return Features(scalars)
        return Features(scalars, layout.flatten(moved)[:, None] * self.length_unit)

    def _inputs(self, graph: Graph, dtype: torch.dtype) -> tuple[Float[Tensor, "N S"], Float[Tensor, "G D"]]:
        """Node inputs, and the embedded conditions of each structure."""
        num = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
        if num != self.in_vectors:
            raise ConfigError(
                "`node_vectors` does not fit the model", expected=f"{self.in_vectors} vectors", got=str(num)
            )
        given = graph.node_scalars
        cond = graph.pos.new_zeros(graph.num_graphs, 1, dtype=dtype)
        if self.num_conditions:
            if given is None or given.shape[1] < self.num_conditions:
                got = "0" if given is None else str(given.shape[1])
                raise ConfigError(
                    "`node_scalars` lacks the conditions", expected=f"{self.num_conditions} last columns", got=got
                )
            cond = given[graph.ptr[:-1], -self.num_conditions :].to(dtype)
            graph = graph.replace(node_scalars=given[:, : -self.num_conditions])
        return self.inputs(graph, dtype), self.embed_cond(cond)

    def _step(self, graph: Graph, dtype: torch.dtype) -> Float[Tensor, "G 1 1"] | float:
        """Length of a unit step."""
        if not self.step_condition or graph.node_scalars is None:
            return 1.0
        return graph.node_scalars[graph.ptr[:-1], -1].to(dtype)[:, None, None]

    def _earlier(self, graph: Graph, layout: DenseLayout, start: Tensor) -> Float[Tensor, "G n n K"] | None:
        if graph.node_vectors is None:
            return None
        moved = start + layout.pad(graph.node_vectors[:, 0].to(start.dtype)) / self.length_unit
        return self._pairs(moved)[1]

    def _pairs(self, pos: Float[Tensor, "G n 3"]) -> tuple[Float[Tensor, "G n n 3"], Float[Tensor, "G n n K"]]:
        """Direction from each receiver (second axis) to each sender (third), and radial functions."""
        vec = pos[:, None] - pos[:, :, None]
        length = (vec.square().sum(-1) + _TINY_SQUARE).sqrt()
        return vec / (1 + length)[..., None], self.basis(length)


def _local(graph: Graph, dtype: torch.dtype) -> Float[Tensor, "N 3"]:
    """Positions in the precision of the weights; taken from the first node before any digits are cut off."""
    pos = graph.pos
    return pos if pos.dtype == dtype else (pos - pos[graph.ptr[:-1]][graph.batch]).to(dtype)


def _leave_sizes_open(
    feats: Float[Tensor, "G n C"],
    vectors: Float[Tensor, "G n 3 V"],
    cond: Float[Tensor, "G D"],
    radial: Float[Tensor, "G n n K"],
    unit: Float[Tensor, "G n n 3"],
    share: Float[Tensor, "G n n 1"],
) -> None:
    """Tells the compiler that G and n vary. Left to find out by itself it would hold a G for a C of the same size."""
    for blocks, num_open in ((feats, 2), (vectors, 2), (cond, 1), (radial, 3), (unit, 3), (share, 3)):
        torch._dynamo.maybe_mark_dynamic(blocks, list(range(num_open)))
