"""The EGNN that denoises in EDM: blocks of messages, each with one move of the nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, Symmetry, config_of
from geomol.models.edm_egnn_layers import AGGREGATIONS, EDMBlock, SinusoidalDistance
from geomol.nn import NodeInputs
from geomol.ops import gather_receivers, gather_senders


class EDMEGNN(nn.Module):
    """E(n)-equivariant denoiser on complete graphs.

        m_ij = SiLU-MLP(h_i, h_j, d_ij², d⁰_ij²) · gate        h_i ← h_i + MLP(h_i, Σ_j m_ij / Z)        (may repeat)
        x_i ← x_i + Σ_j (x_i − x_j)/(d_ij + c) · φ_x(h_i, h_j, d_ij², d⁰_ij²) / Z        (once per block)

    with d the distance at the start of the block and d⁰ that of the input; φ_x has layers of its own. Source:
    Hoogeboom et al., ICML 2022 (arXiv:2203.17003), appendix B, and the authors' code. The network gives scalars and
    displacements x_out − x_in. What EDM adds around it (time and context as last node scalars, dropping their columns,
    displacements without their mean) is not part of it, see `geomol.diffusion.eps_model`.

    Departs from the code: self pairs and padding do not exist instead of being masked; "mean" divides by the number of
    neighbours, where the code divides by the padded number of atoms (as "sum" does with `normalization_factor` set to
    that number). The settings of the released models are the defaults, with 9 blocks of 256 channels for QM9 (4 of 256
    for GEOM-Drugs, 9 of 192 for conditional models).

    Symmetry: scalars invariant, vectors equivariant under E(3), exactly; permutation equivariant. Every pair counts at
    any distance, so structures far apart feel each other.

    Args:
        elements: atomic numbers that enter as one-hot vectors, before the scalars.
        in_scalars: columns of `graph.node_scalars`.
        out_scalars: scalars per node.
        out_vectors: 1, the displacement, or 0.
        channels: width C.
        num_layers: blocks.
        inv_sublayers: rounds of messages in each block.
        attention: gate in (0, 1) on each message.
        tanh: bounds φ_x by ±`coords_range`.
        coords_range: that bound, in each block.
        norm_constant: c, Å.
        sin_embedding: sines and cosines of distances instead of squared distances. As published they carry no gradient,
            so energies made of them have wrong forces, and `symmetry.smooth` is not claimed.
        aggregation: "sum", divided by `normalization_factor`, or "mean" over neighbours.
        normalization_factor: Z.

    Raises:
        ConfigError: a setting out of range, no node inputs, or a graph with a cutoff or whose inputs do not fit.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        out_scalars: int = 1,
        out_vectors: int = 1,
        channels: int = 256,
        num_layers: int = 9,
        inv_sublayers: int = 1,
        attention: bool = True,
        tanh: bool = True,
        coords_range: float = 15.0,
        norm_constant: float = 1.0,
        sin_embedding: bool = False,
        aggregation: str = "sum",
        normalization_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        if aggregation not in AGGREGATIONS:
            raise ConfigError("unknown aggregation", expected=" or ".join(AGGREGATIONS), got=aggregation)
        if out_vectors not in (0, 1):
            raise ConfigError("out_vectors is 0 or 1", got=str(out_vectors))
        if not (normalization_factor > 0 and norm_constant >= 0 and coords_range > 0):
            raise ConfigError("normalization_factor and coords_range must be positive, norm_constant not negative")
        self.cutoff = math.inf
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=not sin_embedding, separable=False)
        self.inputs = NodeInputs(elements, in_scalars)
        if self.inputs.num_features == 0:
            raise ConfigError("the EGNN of EDM needs node inputs", remedy="give elements or in_scalars")
        self.out_vectors = out_vectors
        self.sines = SinusoidalDistance() if sin_embedding else None
        self.embed = nn.Linear(self.inputs.num_features, channels)
        self.blocks = nn.ModuleList(
            EDMBlock(
                channels,
                2 if self.sines is None else 2 * self.sines.num_features,
                inv_sublayers=inv_sublayers,
                attention=attention,
                bound=coords_range if tanh else None,
                norm_constant=norm_constant,
                divisor=normalization_factor if aggregation == "sum" else None,
            )
            for _ in range(num_layers)
        )
        self.readout = nn.Linear(channels, out_scalars)

    def forward(self, graph: Graph) -> Features:
        """Scalars, and displacements if asked for, of every node."""
        if not math.isinf(graph.cutoff):
            raise ConfigError("the EGNN of EDM needs complete graphs", got=f"a cutoff of {graph.cutoff} Å")
        if graph.node_vectors is not None:
            raise ConfigError("`node_vectors` does not fit the model", expected="none", remedy="use the egnn instead")
        dtype = self.embed.weight.dtype
        start = edge_vectors(graph, dtype)
        feats = self.embed(self.inputs(graph, dtype))
        first = current = self._distances(start)
        # displacements are kept instead of positions, so that nothing is lost far from the origin
        vec, moved = start, start.new_zeros(graph.num_nodes, 3)
        for number, block in enumerate(self.blocks):
            if number > 0:
                vec = start + gather_senders(moved, graph) - gather_receivers(moved, graph)
                current = self._distances(vec)
            feats, step = cast(EDMBlock, block)(feats, vec, torch.cat([current, first], dim=1), graph)
            moved = moved + step
        return Features(self.readout(feats), moved[:, None] if self.out_vectors else None)

    def _distances(self, vec: Float[Tensor, "E 3"]) -> Float[Tensor, "E K"]:
        squared = vec.square().sum(1, keepdim=True)
        return squared if self.sines is None else self.sines(squared)
