"""Vectors read out of a network that carries none: combinations of the vectors to the neighbours and of those given."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.graph import Graph, edge_vectors
from geomol.models.ponita_kernels import Basis, BasisValues
from geomol.nn import safe_norm
from geomol.ops import gather_receivers, gather_senders, sum_to_receivers


class PairVectors(nn.Module):
    """V_i = Σ_j φ(h_i, h_j, ij) r_ij + Σ_jk φ_k(h_i, h_j, ij) w_ijk + Σ_k ψ_k(h_i) v_ik, with r_ij = x_j − x_i, given
    vectors v_ik and their differences w_ijk = v_jk − v_ik.

    The position update of EGNN (Satorras et al. 2021, arXiv:2102.09844, eq. 4 and 7) for a network that keeps no
    messages: φ is the separable form Σ_c a_c(h_i) k_c(ij) b_c(h_j), with the kernel basis of the network, so it
    vanishes smoothly at the cutoff. Equivariant under E(3) where h is invariant.

    Args:
        basis: kernel basis of the network.
        channels: width of h.
        in_vectors: given vectors per node.
        out_vectors: vectors per node.
    """

    def __init__(self, basis: Basis, channels: int, *, in_vectors: int, out_vectors: int) -> None:
        super().__init__()
        self.out_vectors = out_vectors
        self.kernel = basis.spatial_kernel(channels)
        self.sender = nn.Linear(channels, channels)
        num_gates = channels * (1 + in_vectors) + in_vectors
        self.receiver = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, out_vectors * num_gates)
        )

    def forward(self, x: Float[Tensor, "N C"], basis: BasisValues, graph: Graph) -> Float[Tensor, "N V 3"]:
        kernel, _ = self.kernel.on_edges(basis)
        weight = kernel * gather_senders(self.sender(x), graph)
        arrows = edge_vectors(graph, x.dtype)[:, None]
        if graph.node_vectors is not None:
            arrows = torch.cat([arrows, differences(graph, x.dtype)], dim=1)
        pairs = (weight[:, None, :, None] * arrows[:, :, None]).flatten(1, 2)
        bundle = sum_to_receivers(pairs, graph)  # (N, (1 + K) C, 3)
        if graph.node_vectors is not None:
            bundle = torch.cat([bundle, graph.node_vectors.to(x.dtype)], dim=1)
        out: Tensor = self.receiver(x).view(len(x), self.out_vectors, -1) @ bundle
        return out


def differences(graph: Graph, dtype: torch.dtype) -> Float[Tensor, "E K 3"]:
    """Given vectors of the sender less those of the receiver."""
    assert graph.node_vectors is not None
    given = graph.node_vectors.to(dtype)
    return gather_senders(given, graph) - gather_receivers(given, graph)


def vector_attributes(graph: Graph, dtype: torch.dtype) -> Float[Tensor, "E A"]:
    """Invariants of pairs of nodes with vectors: (|r|, w_k·u, √(1 + w_k²) − 1), u = r / √(1 + r²).

    They see differences w_k of the vectors alone: of velocities, what a moving observer sees too, and few enough not to
    be learned by heart from a few thousand systems (with v_ik·u, v_jk·u and v_ik·v_jk errors of forecasts are twice as
    large). No kinks but that of |r|.
    """
    vec = edge_vectors(graph, dtype)
    length = safe_norm(vec)[:, None]
    change = differences(graph, dtype)
    along = (change * (vec * (1 + length.square()).rsqrt())[:, None]).sum(-1)
    return torch.cat([length, along, (1 + change.square().sum(-1)).sqrt() - 1], dim=1)
