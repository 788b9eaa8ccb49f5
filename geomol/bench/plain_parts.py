"""What the plain forms share: vectors, sums and radial functions as one writes them down at first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geomol.graph import Graph
from geomol.nn import BesselBasis, polynomial_envelope


def plain_edge_vectors(graph: Graph, dtype: torch.dtype) -> Tensor:
    """pos[src] + shift @ cell − pos[dst] by indexing."""
    cell = graph.cell[graph.batch[graph.dst]]
    shift = torch.einsum("ei,eij->ej", graph.cell_shift.to(graph.pos.dtype), cell)
    return (graph.pos[graph.src] + shift - graph.pos[graph.dst]).to(dtype)


def plain_sum(values: Tensor, graph: Graph) -> Tensor:
    """Scatter-add by receiver."""
    return values.new_zeros(graph.num_nodes, *values.shape[1:]).index_add(0, graph.dst, values)


def plain_bessel(basis: BesselBasis, length: Tensor) -> Tensor:
    """sin(kπr/r_c) / r, scaled as the basis is, times its envelope if it has one; (E, K)."""
    waves = torch.arange(1, len(basis.wave_numbers) + 1, dtype=length.dtype, device=length.device)
    norm = math.sqrt(basis.cutoff / len(waves))
    values = norm * torch.sin(length[:, None] * waves * (math.pi / basis.cutoff)) / length[:, None]
    return values * polynomial_envelope(length / basis.cutoff)[:, None] if basis.enveloped else values
