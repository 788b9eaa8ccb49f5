"""Normals of a surface known by points alone: the direction in which a neighbourhood is thinnest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from torch import Tensor

from geomol.errors import ConfigError
from geomol.graph import PointEdges, knn
from geomol.graph.cloud_checks import check_clouds
from geomol.ops import segment_mean, sum_to_receivers

ORIENTATIONS = ("outward", "propagate", "none")


@dataclass(frozen=True, eq=False)
class Normals:
    """Unit normals, and how far each can be trusted.

    Attributes:
        vectors: unit normals.
        planarity: 1 − λ₀/λ₁ of the neighbourhood's covariance (λ₀ ≤ λ₁ ≤ λ₂). 1: flat, the line of the normal is
            sure; 0: a line, a blob or repeated points, the direction means nothing.
        outwardness: cosine of normal and direction from the cloud's centroid, after orientation. With "outward" it is
            never negative, and near 0 the *sign* means nothing: the surface runs along the line of sight.
    """

    vectors: Float[Tensor, "N 3"]
    planarity: Float[Tensor, " N"]
    outwardness: Float[Tensor, " N"]


@torch.no_grad()
def pca_normals(pos: Float[Tensor, "N 3"], ptr: Int[Tensor, " P"], *, k: int = 16, orient: str = "outward") -> Normals:
    """Normals by local principal components (Hoppe et al. 1992), computed in float64.

    A point's normal is the eigenvector of the smallest eigenvalue of the covariance of the point and its k nearest
    neighbours. Exact on planes to rounding. On a sphere with 2000 evenly spread points and k = 16 the error is 0.3° in
    the mean and 1.2° at most; with random points, whose neighbourhoods are lopsided, 1.2° and 5°. At edges and corners
    it is between the normals of the faces that meet there.

    The covariance does not know inside from outside. The sign is fixed afterwards:
        "outward": away from the centroid of the cloud. Right for star-shaped bodies, wrong in cavities.
        "propagate": from the point farthest out, where outward is certain, along the tree of edges over which normals
            turn least (Hoppe et al. 1992), in each connected part of the neighbourhood graph. Right for closed surfaces
            sampled more densely than they bend or come near themselves.
        "none": as the eigensolver gave it; only the line through it means anything.

    Symmetry: rotates with the cloud, where planarity and outwardness are not 0 and no neighbours tie.

    Raises:
        InputError: a cloud of fewer than 3 points, or points that are not finite. ConfigError: unknown orientation.
    """
    if orient not in ORIENTATIONS:
        raise ConfigError(f'unknown orientation "{orient}"', expected=", ".join(ORIENTATIONS))
    check_clouds(pos, ptr, least=3)
    exact = pos.double()
    edges = knn(exact, ptr, k + 1, include_self=True)
    values, axes = torch.linalg.eigh(_covariance(exact, edges))
    normal = axes[..., 0]
    middle = values[:, 1].clamp(min=torch.finfo(torch.float64).tiny)
    planarity = 1 - (values[:, 0].clamp(min=0) / middle).clamp(max=1)
    # a line or a single place: λ₁ itself is rounding, and its ratio to λ₀ means nothing
    planarity = torch.where(values[:, 1] > 1e-12 * values[:, 2], planarity, 0.0)
    outward = _from_centroid(exact, ptr)
    if orient == "propagate":
        normal = _propagated(normal, outward, edges)
    elif orient == "outward":
        normal = torch.where(((normal * outward).sum(1) < 0)[:, None], -normal, normal)
    length = outward.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    outwardness = (normal * outward).sum(1) / length
    return Normals(normal.to(pos.dtype), planarity.to(pos.dtype), outwardness.to(pos.dtype))


def _covariance(pos: Tensor, edges: PointEdges) -> Tensor:
    """(N, 3, 3) covariance of the senders of each point about their mean."""
    # relative to the receiver, so that nothing is lost far from the origin
    vectors = pos[edges.src] - pos[edges.dst]
    counts = edges.edge_ptr.diff()[:, None]
    vectors = vectors - (sum_to_receivers(vectors, edges) / counts)[edges.dst]
    outer = vectors[:, :, None] * vectors[:, None, :]
    return sum_to_receivers(outer, edges) / counts[:, None]


def _from_centroid(pos: Tensor, ptr: Tensor) -> Tensor:
    sizes = ptr.diff()
    batch = torch.repeat_interleave(torch.arange(len(sizes), device=pos.device), sizes)
    local = pos - pos[ptr[:-1]][batch]
    return local - segment_mean(local, ptr)[batch]


def _propagated(normal: Tensor, outward: Tensor, edges: PointEdges) -> Tensor:
    """Signs made consistent along the minimum spanning tree of 1 − |n_i · n_j|; runs on the CPU."""
    n, out = normal.cpu().numpy(), outward.cpu().numpy()
    src, dst = edges.src.cpu().numpy(), edges.dst.cpu().numpy()
    # scipy takes 0 for "no edge"; 1 is added to every weight, which does not change the tree
    weight = 2 - np.abs((n[src] * n[dst]).sum(1))
    shape = (len(n), len(n))
    # a pair listed both ways has the same weight twice: the larger of the two entries is that weight
    graph = csr_matrix((weight, (src, dst)), shape=shape)
    tree = minimum_spanning_tree(graph.maximum(graph.T))
    tree = tree + tree.T
    signs = np.ones(len(n))
    distance = (out * out).sum(1)
    _, part = connected_components(tree, directed=False)
    by_part = np.lexsort((-distance, part))  # the outermost point of each part first
    roots = by_part[np.unique(part[by_part], return_index=True)[1]]
    for root in roots:
        signs[root] = -1.0 if n[root] @ out[root] < 0 else 1.0
        order, parent = breadth_first_order(tree, root, directed=False)
        for child in order[1:]:
            signs[child] = signs[parent[child]] * (-1.0 if n[child] @ n[parent[child]] < 0 else 1.0)
    return normal * torch.from_numpy(signs).to(normal.device)[:, None]
