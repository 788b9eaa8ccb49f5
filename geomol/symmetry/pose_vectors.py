"""A pose network for molecules: smooth sums of relative positions with invariant weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.graph import Graph, edge_vectors
from geomol.models import EGNN, Features
from geomol.nn import BesselBasis
from geomol.ops import segment_sum, sum_to_receivers
from geomol.symmetry.pose_base import PoseNetwork, PoseVectors, centred, node_vectors, plain_config

_WIDTHS = (1.0, 2.0, 4.0, 8.0)  # Å, of the radial functions on graphs without a cutoff
_TINY_SQUARE = 1e-16  # Å², under the root: a finite gradient for coincident points


class EGNNVectors(PoseNetwork):
    """Four equivariant vectors per structure (the last one for the origin) from an EGNN:

        v_k = Σ_i [ Σ_j Σ_r a_kr(h_i) B_r(r_ij) (x_j − x_i) + Σ_m b_km(h_i) u_im + c_k(h_i) (x_i − centroid) ]

    with invariant features h of `geomol.models.EGNN`, radial functions B that vanish smoothly at the cutoff, and the
    vector inputs (and noise) u_i. On periodic structures, which have no centroid, the last term is left out.

    Source: the vectors are the coordinate update of EGNN (arXiv:2102.09844, eq. 4) with several outputs; the use for
    poses follows Kaba et al. (arXiv:2211.06489).

    Symmetry: E(3), exactly; permutations; smooth at the cutoff. The squares and products of the u_i enter h.

    Args:
        elements: atomic numbers that enter as one-hot vectors.
        in_scalars: columns of `graph.node_scalars`.
        in_vectors: vectors of `graph.node_vectors`.
        num_noise: vectors of noise per node; 0: takes none.
        channels: width of the EGNN.
        num_layers: rounds of messages.
        cutoff: of the graph, Å; inf for complete graphs.
        num_radial: Bessel functions; without a cutoff 1 and Gaussians of width 1, 2, 4, 8 Å take their place.
    """

    smooth = True
    has_shift = True

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        in_vectors: int = 0,
        num_noise: int = 0,
        channels: int = 32,
        num_layers: int = 2,
        cutoff: float = 5.0,
        num_radial: int = 8,
    ) -> None:
        super().__init__()
        self.config = {**plain_config(locals()), "elements": list(elements)}
        self.in_vectors, self.num_noise = in_vectors, num_noise
        finite, num = math.isfinite(cutoff), in_vectors + num_noise
        self.egnn = EGNN(
            elements=elements,
            in_scalars=in_scalars + num * (num + 1) // 2,
            channels=channels,
            num_layers=num_layers,
            cutoff=cutoff,
            envelope=finite,
            num_radial=num_radial if finite else 0,
            readout="none",
        )
        self.basis = BesselBasis(num_radial, cutoff) if finite else None
        self.num_radial = num_radial if finite else 1 + len(_WIDTHS)
        self.weights = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 4 * (self.num_radial + num + 1))
        )

    def forward(self, graph: Graph, noise: Float[Tensor, "N V 3"] | None = None) -> PoseVectors:
        u = node_vectors(graph, self.in_vectors, self.dtype)
        if self.num_noise:
            zeros = u.new_zeros(len(u), self.num_noise, 3)
            u = torch.cat([u, zeros if noise is None else noise], dim=1)
        feats: Features = self.egnn(_with_products(graph, u))
        a, b, c = self.weights(feats.scalars).view(len(u), 4, -1).split([self.num_radial, u.shape[1], 1], dim=-1)
        vectors = a @ self._surroundings(graph) + b @ u
        if not graph.is_periodic:
            vectors = vectors + c * centred(graph, self.dtype)[:, None]
        vectors = segment_sum(vectors, graph.ptr)
        return PoseVectors(vectors[:, :3].mT, shift=vectors[:, 3])

    def _surroundings(self, graph: Graph) -> Float[Tensor, "N K 3"]:
        """Σ_j B_r(r_ij) (x_j − x_i), one vector for each radial function."""
        vec = edge_vectors(graph, self.dtype)
        squared = vec.square().sum(1)
        if self.basis is None:
            radial = torch.stack([torch.ones_like(squared), *(torch.exp(-squared / w**2) for w in _WIDTHS)], dim=1)
        else:
            radial = self.basis((squared + _TINY_SQUARE).sqrt())
        return sum_to_receivers(radial[:, :, None] * vec[:, None, :], graph)


def _with_products(graph: Graph, u: Float[Tensor, "N V 3"]) -> Graph:
    """The graph with the vectors replaced by their scalar products, as further scalars."""
    rows, columns = torch.triu_indices(u.shape[1], u.shape[1], device=u.device)
    products = (u[:, rows] * u[:, columns]).sum(-1)
    scalars = products if graph.node_scalars is None else torch.cat([graph.node_scalars.to(u.dtype), products], dim=1)
    return graph.replace(node_scalars=scalars if scalars.shape[1] else None, node_vectors=None)
