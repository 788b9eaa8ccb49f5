"""Pose networks of vector neurons: for particles, for point clouds, and the noise-conditioned one of LPS."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.nn.nearest import nearest_nodes
from geomol.nn.vector_neurons import VNInvariants, VNLinear, VNLinearReLU, VNMaxPool, VNMeanPool, VNReLU
from geomol.ops import gather_senders, segment_max, segment_mean, sum_to_receivers
from geomol.symmetry.pose_base import PoseNetwork, PoseVectors, centred, node_vectors, plain_config

FEATURES = ("p", "pv", "pva")


class VNDeepSetsLayer(nn.Module):
    """x_i ← VN-ReLU(A x_i + B mean over the senders j ≠ i of x_j), added to x_i where `residual`."""

    def __init__(self, in_channels: int, channels: int, *, slope: float, dropout: float, residual: bool) -> None:
        super().__init__()
        self.own, self.others = VNLinear(in_channels, channels), VNLinear(in_channels, channels)
        self.relu = VNReLU(channels, slope=slope)
        self.dropout, self.residual = nn.Dropout(dropout), residual

    def forward(self, x: Float[Tensor, "N B 3"], graph: Graph) -> Float[Tensor, "N C 3"]:
        degree = graph.edge_ptr.diff().clamp(min=1).to(x.dtype)
        mean = sum_to_receivers(gather_senders(x, graph), graph) / degree[:, None, None]
        out: Tensor = self.dropout(self.relu(self.own(x) + self.others(mean)))
        return out + x if self.residual else out


class VNDeepSets(PoseNetwork):
    """Deep sets of vectors for small systems of particles; four vectors, of which the last may be the origin.

    Source: Kaba et al., ICML 2023 (arXiv:2211.06489, section 5.2). Departs from the authors' code: no biases on
    vectors and Gram-Schmidt over the vectors, both of which it takes to be equivariant at all. Noise is an addition.

    Symmetry: O(3) with "p" and "pv"; with "pva" rotations only. Not smooth on graphs with a cutoff (means over
    neighbours); exact and smooth on complete graphs.

    Args:
        features: "p": centred positions, which is for incomplete graphs only: on complete ones the mean over the others
            is −x_i / (n − 1), every layer multiplies all x_i by the same numbers, and their mean vanishes; "pv": and
            velocities (`graph.node_vectors[:, 0]`); "pva": and their cross product, the angular momentum per mass.
        channels: vectors per node.
        num_layers: at least 1.
        slope: of the ReLU.
        dropout: of whole components in training, which is not equivariant; 0.5 in the authors' code.
    """

    has_shift = True

    def __init__(
        self,
        *,
        features: str = "pv",
        channels: int = 16,
        num_layers: int = 4,
        slope: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = plain_config(locals())
        if features not in FEATURES:
            raise ConfigError("unknown features", expected=", ".join(FEATURES), got=features)
        self.features, self.reflections = features, features != "pva"
        self.num_noise = min(len(features), 2)
        self.layers = nn.ModuleList(
            VNDeepSetsLayer(channels if i else len(features), channels, slope=slope, dropout=dropout, residual=i > 0)
            for i in range(num_layers)
        )
        self.readout = VNLinear(channels, 4)

    def forward(self, graph: Graph, noise: Float[Tensor, "N V 3"] | None = None) -> PoseVectors:
        x = torch.cat([centred(graph, self.dtype)[:, None], node_vectors(graph, self.num_noise - 1, self.dtype)], dim=1)
        if noise is not None:
            x = x + noise
        if self.features == "pva":
            x = torch.cat([x, torch.linalg.cross(x[:, :1], x[:, 1:])], dim=1)
        for layer in self.layers:
            x = layer(x, graph)
        vectors = self.readout(segment_mean(x, graph.ptr))
        return PoseVectors(vectors[:, :3].mT, shift=vectors[:, 3])


class VNSmall(PoseNetwork):
    """Three vectors of a point cloud from the neighbourhoods of its points: [x_j − x_i, x_i, x_j × x_i].

    Source: Kaba et al., ICML 2023; Mondal et al., NeurIPS 2023 (arXiv:2310.01647), the authors' point-cloud network.

    Symmetry: rotations only (cross products); translations, by centring. The nearest neighbours change in jumps, so it
    is not for potentials.

    Args:
        num_neighbours: k, the point itself included.
        channels: vectors per point.
        pooling: "mean" or "max" over the neighbours.
        dropout: of vector components before the last mean in training; 0.5 in the authors' code.
        centre: take positions from the centroid; the authors' data is centred already.
    """

    reflections = False
    num_noise = 1

    def __init__(
        self,
        *,
        num_neighbours: int = 20,
        channels: int = 21,
        pooling: str = "mean",
        dropout: float = 0.0,
        centre: bool = True,
    ) -> None:
        super().__init__()
        self.config = plain_config(locals())
        if pooling not in ("mean", "max"):
            raise ConfigError("unknown pooling", expected="mean or max", got=pooling)
        self.num_neighbours, self.centre = num_neighbours, centre
        self.edges = VNLinearReLU(3, channels, slope=0.0)
        self.pool = VNMaxPool(channels) if pooling == "max" else VNMeanPool()
        self.points = VNLinearReLU(channels, channels, slope=0.0)
        self.norm = type(self.points.norm)(channels)
        self.vectors = VNLinearReLU(channels, 4, slope=0.0)
        self.dropout = nn.Dropout(dropout)

    def forward(self, graph: Graph, noise: Float[Tensor, "N V 3"] | None = None) -> PoseVectors:
        x = centred(graph, self.dtype) if self.centre else graph.pos.to(self.dtype)
        if noise is not None:
            x = x + noise[:, 0]
        near = x[nearest_nodes(x, graph.ptr, self.num_neighbours)]  # (N, k, 3)
        own = x[:, None].expand_as(near)
        out = self.pool(self.edges(torch.stack([near - own, own, torch.linalg.cross(near, own)], dim=-2)))
        out = self.dropout(self.vectors(self.norm(self.points(out))))
        return PoseVectors(segment_mean(out, graph.ptr)[:, :3].mT)


class VNDGCNN(PoseNetwork):
    """The interface of learned probabilistic symmetrisation: a score per node and three vectors per structure.

    Two rounds of edge convolutions on nearest neighbours in feature space, an invariant head and an equivariant one.
    Source: Kim et al., NeurIPS 2023 (arXiv:2306.02866), with the vector neurons of Deng et al. (arXiv:2104.12229).

    Symmetry: O(3); translations, by centring; permutations (except where the nearest neighbours tie). Not smooth.

    Args:
        in_vectors: columns of `graph.node_vectors` (1: velocities).
        channels: vectors per node; 21 in the authors' n-body runs.
        num_neighbours: k, the node itself included.
        dropout: of vector components after each round in training, which is not equivariant.
    """

    has_scores = True

    def __init__(
        self, *, in_vectors: int = 1, channels: int = 21, num_neighbours: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = plain_config(locals())
        self.in_vectors, self.num_neighbours, self.num_noise = in_vectors, num_neighbours, 1 + in_vectors
        self.conv1, self.pool1 = VNLinearReLU(2 * self.num_noise, channels), VNMaxPool(channels)
        self.conv2, self.pool2 = VNLinearReLU(2 * channels, channels), VNMaxPool(channels)
        self.conv3 = VNLinearReLU(2 * channels, channels, shared=True)
        self.dropout = nn.Dropout(dropout)
        self.invariants = VNInvariants(2 * channels)
        self.score = nn.Linear(12 * channels, 1)
        self.pool3, self.vectors = VNMaxPool(channels), VNLinear(channels, 3)

    def forward(self, graph: Graph, noise: Float[Tensor, "N V 3"] | None = None) -> PoseVectors:
        x = torch.cat([centred(graph, self.dtype)[:, None], node_vectors(graph, self.in_vectors, self.dtype)], dim=1)
        if noise is not None:
            x = x + noise
        x1 = self.pool1(self.conv1.on_pairs(x, self._near(x, graph.ptr)))
        x2 = self.dropout(x1)
        x2 = self.pool2(self.conv2.on_pairs(x2, self._near(x2, graph.ptr)))
        both = torch.cat([x1, x2], dim=1)
        return PoseVectors(self._axes(x1, graph).mT, scores=self._scores(both, graph))

    def _near(self, x: Float[Tensor, "N C 3"], ptr: Int[Tensor, " P"]) -> Int[Tensor, "N k"]:
        return nearest_nodes(x.flatten(1), ptr, self.num_neighbours)

    def _scores(self, both: Float[Tensor, "N D 3"], graph: Graph) -> Float[Tensor, " N"]:
        x = self.conv3(both)
        mean = segment_mean(x, graph.ptr)[graph.batch]
        invariants, triad = self.invariants(torch.cat([x, mean], dim=1))
        highest = segment_max(invariants, graph.ptr)[graph.batch]
        scores: Tensor = self.score(torch.cat([highest, (both @ triad.mT).flatten(1)], dim=1))
        return scores[:, 0]

    def _axes(self, x: Float[Tensor, "N C 3"], graph: Graph) -> Float[Tensor, "G 3 3"]:
        reach = self.pool3.reach(x)
        best = (reach == segment_max(reach, graph.ptr)[graph.batch]).to(x.dtype)[..., None]
        out: Tensor = self.vectors(segment_mean(best * x, graph.ptr) / segment_mean(best, graph.ptr))
        return out
