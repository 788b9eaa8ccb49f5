"""What wrappers with random poses share: noise that repeats, many poses per structure, and the spread between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, repeat_structures
from geomol.models import Features
from geomol.ops import segment_sum, sum_to_rows
from geomol.symmetry.pose_base import PoseVectors
from geomol.symmetry.pose_networks import build_pose_network
from geomol.symmetry.poses import Poses, Symmetriser, pose_graph
from geomol.symmetry.shifted import ABOUT_CENTROID, shift_structures

_CHUNK = 64  # nodes whose noise is drawn in one call; the numbers of a call may depend on how many it draws


@dataclass(frozen=True, eq=False)
class SampleSpread:
    """Predictions with the error that the finite number of random poses leaves.

    Attributes:
        mean: as `forward` gives it.
        error: standard error of each number of `mean`.
        total: sum of the scalars over the nodes of each structure, such as an energy.
        total_error: its standard error.
    """

    mean: Features
    error: Features
    total: Float[Tensor, "G C"]
    total_error: Float[Tensor, "G C"]


@dataclass(frozen=True, eq=False)
class Samples:
    """What the backbone says from each pose, turned home, node by node.

    Attributes:
        scalars, vectors: of every node of every pose.
        node: row in the original graph.
        pose: pose of each row; the poses of a structure are consecutive, `samples` of them.
        samples: poses per structure.
    """

    scalars: Float[Tensor, "M C"]
    vectors: Float[Tensor, "M V 3"] | None
    node: Int[Tensor, " M"]
    pose: Int[Tensor, " M"]
    samples: int


def table_noise(graph: Graph, samples: int, num: int, generator: torch.Generator) -> Float[Tensor, "N K V 3"]:
    """Normal noise that depends on the number of the node within its structure only, whatever else is in the batch."""
    local = torch.arange(graph.num_nodes, device=graph.device) - graph.ptr[graph.batch]
    longest = int(local.max()) + 1 if len(local) else 0
    parts = [
        torch.randn(_CHUNK, samples, num, 3, generator=generator, dtype=torch.float64)
        for _ in range(0, longest, _CHUNK)
    ]
    if not parts:
        return graph.pos.new_zeros(0, samples, num, 3)
    return torch.cat(parts).to(graph.device)[local]


class SampledSymmetriser(Symmetriser):
    """A wrapper around a pose network conditioned on noise: K poses c(x, z_k) per structure with weight 1/K.

    z has independent normal components of standard deviation `noise_scale`, hence the same law after any rotation: what
    follows from x and z equivariantly is equivariant on average over z. In training every step and structure has its
    own noise. In evaluation it depends on `seed` and the number of the node within its structure alone, so predictions
    repeat and do not depend on the batch; renumbering atoms then changes them within their sampling error.

    Args:
        backbone: see `Symmetriser`.
        pose: a pose network that reads noise: {"name": one of `POSE_NETWORKS`, …}.
        samples: K in training.
        eval_samples: K in evaluation; None: as in training.
        noise_scale: standard deviation of the noise, in the units of what it is added to; 0: none.
        antithetic: noise comes in pairs ±z, which cancels errors odd in z; K is even then.
        group: see `check_group`.
        seed: of the noise.

    Raises:
        ConfigError: settings out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pose: Mapping[str, object] | nn.Module,
        samples: int,
        eval_samples: int | None,
        noise_scale: float,
        antithetic: bool,
        group: str,
        seed: int,
    ) -> None:
        super().__init__(backbone)
        self.pose = build_pose_network(pose, backbone)
        self.group = group
        self.samples, self.eval_samples = samples, eval_samples or samples
        self.noise_scale, self.antithetic, self.seed = noise_scale, antithetic, seed
        if min(self.samples, self.eval_samples) < 1 or noise_scale < 0:
            raise ConfigError("samples are at least 1 and noise_scale at least 0", got=f"{samples}, {noise_scale}")
        if antithetic and (self.samples % 2 or self.eval_samples % 2):
            raise ConfigError("antithetic noise comes in pairs", expected="even samples", got=f"{samples}")
        if noise_scale and not self.pose.num_noise:
            raise ConfigError("this pose network reads no noise", remedy="set its num_noise, or noise_scale=0")

    @property
    def num_samples(self) -> int:
        """Poses per structure in the present mode."""
        return self.samples if self.training else self.eval_samples

    def noise(self, graph: Graph) -> Float[Tensor, "N K V 3"]:
        """Normal noise of every node for each of the K samples."""
        half = self.num_samples // 2 if self.antithetic else self.num_samples
        num, generator = self.pose.num_noise, self.rng()
        if self.training:
            z = torch.randn(graph.num_nodes, half, num, 3, generator=generator, dtype=torch.float64).to(graph.device)
        else:
            z = table_noise(graph, half, num, generator)
        if self.antithetic:  # z, −z next to each other
            z = torch.stack([z, -z], dim=2).flatten(1, 2)
        return self.noise_scale * z

    def pose_vectors(self, graph: Graph) -> tuple[PoseVectors, Int[Tensor, " P"], Graph]:
        """Vectors of each sample, the structure it belongs to, and the graph in which each sample is a structure."""
        structure = torch.arange(graph.num_graphs, device=graph.device).repeat_interleave(self.num_samples)
        repeated, node = repeat_structures(graph, structure)
        if not self.noise_scale:
            return self.pose(repeated), structure, repeated
        sample = torch.arange(len(structure), device=graph.device) % self.num_samples
        noise = self.noise(graph)[node, sample[repeated.batch]]
        return self.pose(repeated, noise.to(self.pose.dtype)), structure, repeated

    def sampled(self, graph: Graph) -> Samples:
        """What the backbone says from each pose."""
        poses = self.poses(graph)
        seen, node = self._see(graph, poses)
        return self._home(self.backbone(seen), poses, seen, node)

    def _see(self, graph: Graph, poses: Poses) -> tuple[Graph, Int[Tensor, " M"]]:
        """The structures from all poses, and the row in `graph` of each node."""
        seen, node = pose_graph(graph, poses)
        if self.group in ABOUT_CENTROID:
            seen = shift_structures(seen, poses.origin[poses.structure])
        return seen, node

    def _home(self, out: Features, poses: Poses, seen: Graph, node: Tensor) -> Samples:
        vectors = out.vectors
        if vectors is not None:
            home = poses.rotation.mT if poses.back is None else poses.back
            vectors = vectors @ home.to(vectors.dtype)[seen.batch]
        return Samples(out.scalars, vectors, node, seen.batch, self.num_samples)

    def forward(self, graph: Graph) -> Features:
        samples = self.sampled(graph)
        vectors = None if samples.vectors is None else _mean(samples.vectors, samples, graph.num_nodes)
        return Features(_mean(samples.scalars, samples, graph.num_nodes), vectors)

    def sample_spread(self, graph: Graph) -> SampleSpread:
        """Mean and standard error over the poses; the error falls as 1/√K. Pairs of opposite noise count as one sample.

        Raises:
            ConfigError: fewer than two independent samples.
        """
        samples, num = self.sampled(graph), graph.num_nodes
        size = 2 if self.antithetic else 1
        if samples.samples < 2 * size:
            raise ConfigError("no spread without two independent samples", got=f"{samples.samples} samples")
        mean, error = _mean_and_error(samples.scalars, samples, num, size)
        ptr = torch.nn.functional.pad(
            torch.bincount(samples.pose, minlength=graph.num_graphs * samples.samples).cumsum(0), (1, 0)
        )
        totals = segment_sum(samples.scalars, ptr).view(graph.num_graphs, -1, size, samples.scalars.shape[1]).mean(2)
        total_error = totals.std(1) / totals.shape[1] ** 0.5
        if samples.vectors is None:
            return SampleSpread(Features(mean), Features(error), totals.mean(1), total_error)
        vectors, vector_error = _mean_and_error(samples.vectors, samples, num, size)
        return SampleSpread(Features(mean, vectors), Features(error, vector_error), totals.mean(1), total_error)


def _mean(values: Tensor, samples: Samples, num_nodes: int) -> Tensor:
    if samples.samples == 1:  # nodes are in their old order
        return values
    return sum_to_rows(values, samples.node, num_nodes) / samples.samples


def _mean_and_error(values: Tensor, samples: Samples, num_nodes: int, size: int) -> tuple[Tensor, Tensor]:
    """Mean over K samples of each node, and its standard error from groups of `size` samples."""
    group = (samples.pose % samples.samples) // size
    num_groups = samples.samples // size
    by_group = sum_to_rows(values, group * num_nodes + samples.node, num_groups * num_nodes) / size
    by_group = by_group.view(num_groups, num_nodes, *values.shape[1:])
    return by_group.mean(0), by_group.std(0) / num_groups**0.5
