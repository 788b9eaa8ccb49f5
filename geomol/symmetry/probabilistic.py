"""Learned probabilistic symmetrisation: the average over poses that a noise-conditioned network draws."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import Features
from geomol.symmetry.learned_axes import LearnedAxes
from geomol.symmetry.penalties import LastPenalty
from geomol.symmetry.permutations import Ordering
from geomol.symmetry.pose_networks import check_group, is_smooth, pose_config
from geomol.symmetry.poses import Poses, centroids
from geomol.symmetry.sampled import SampledSymmetriser, Samples


class ProbabilisticSymmetrisation(SampledSymmetriser):
    """φ(x) = E_{g ~ q(g|x)} [g · f(g⁻¹ x)], with g from an equivariant network of x and noise: g = c(x, z).

    No noise and one sample is canonicalisation; a network that only looks at the noise would be averaging over the
    group. With `permutations` the element also holds an order of the nodes, for backbones that tell their nodes apart.

    Source: Kim et al., NeurIPS 2023 (arXiv:2306.02866). Departs from it: no jitter on vectors and scores (vanishing
    vectors: see `LearnedAxes`; equal scores keep the order of the input); the noise is drawn from a generator of its
    own, so that evaluation repeats; the edges of a permuted structure are made from its permuted nodes.

    Symmetry: `group` and permutations, on average over the noise; `sample_spread` gives the error that is left. A
    learned order jumps where two scores cross, so `permutations` is for direct predictions, not for potentials.

    Args:
        backbone: see `Symmetriser`.
        pose: see `SampledSymmetriser`; with `permutations` one that gives scores.
        group: "E(3)", "SE(3)"; "O(3)" or "SO(3)" turn about the centroid and leave it where it is.
        samples: K in training (20 in the authors' runs).
        eval_samples: K in evaluation (20 or 200 there); None: as in training.
        noise_scale: standard deviation of the noise (1 there).
        antithetic: noise in pairs ±z.
        permutations: whether nodes are reordered too.
        tau: temperature of the soft permutation (0.1 there).
        sinkhorn_iterations: rounds that make it doubly stochastic.
        entropy_weight: of the soft permutation's entropy in `penalty()`: straight-through gradients need it near a hard
            one.
        third: rule for the third axis, see `gram_schmidt`; None chooses by the group.
        softness: see `gram_schmidt`; positive, it takes the smooth cutoff away, see `Canonicalised`.
        seed: of the noise.

    Raises:
        ConfigError: settings that contradict each other.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pose: Mapping[str, object] | nn.Module,
        group: str = "E(3)",
        samples: int = 4,
        eval_samples: int | None = None,
        noise_scale: float = 1.0,
        antithetic: bool = False,
        permutations: bool = False,
        tau: float = 0.1,
        sinkhorn_iterations: int = 20,
        entropy_weight: float = 0.1,
        third: str | None = None,
        softness: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            backbone,
            pose=pose,
            samples=samples,
            eval_samples=eval_samples,
            noise_scale=noise_scale,
            antithetic=antithetic,
            group=group,
            seed=seed,
        )
        self.axes = LearnedAxes(check_group(group, self.pose, third), softness)
        if permutations and not self.pose.has_scores:
            raise ConfigError("permutations need a pose network with scores", remedy='use "vn_dgcnn"')
        self.permutations, self.tau, self.sinkhorn_iterations = permutations, tau, sinkhorn_iterations
        self.entropy_weight = entropy_weight
        self.config = {
            "pose": pose_config(self.pose),
            "group": group,
            "samples": samples,
            "eval_samples": eval_samples,
            "noise_scale": noise_scale,
            "antithetic": antithetic,
            "permutations": permutations,
            "tau": tau,
            "sinkhorn_iterations": sinkhorn_iterations,
            "entropy_weight": entropy_weight,
            "third": third,
            "softness": softness,
            "seed": seed,
        }
        inner = self.backbone.symmetry
        smooth = inner.smooth and is_smooth(self.pose, self.cutoff, rigid=softness == 0) and not permutations  # type: ignore[union-attr]
        continuous = self.pose.smooth and softness > 0 and inner.continuous and not permutations  # type: ignore[union-attr]
        self._claim(group, smooth=smooth, continuous=continuous, stochastic=noise_scale > 0)
        self._last = LastPenalty()

    def poses(self, graph: Graph) -> Poses:
        return self._draw(graph)[0]

    def sampled(self, graph: Graph) -> Samples:
        poses, ordering = self._draw(graph)
        self._last.value = None if ordering is None else self.entropy_weight * ordering.entropy
        seen, node = self._see(graph, poses)
        if ordering is None:
            return self._home(self.backbone(seen), poses, seen, node)
        out: Features = self.backbone(ordering.sort_graph(seen))
        vectors = None if out.vectors is None else ordering.restore(out.vectors)
        return self._home(Features(ordering.restore(out.scalars), vectors), poses, seen, node)

    def _draw(self, graph: Graph) -> tuple[Poses, Ordering | None]:
        """Poses, and the order of the nodes of each."""
        vectors, structure, repeated = self.pose_vectors(graph)
        rotation = self.axes(vectors, repeated)
        weight = rotation.new_full((len(structure),), 1 / self.num_samples)
        poses = Poses(rotation, weight, structure, centroids(graph))
        if not self.permutations or vectors.scores is None:
            return poses, None
        return poses, Ordering(
            vectors.scores,
            repeated.ptr,
            tau=self.tau,
            iterations=self.sinkhorn_iterations,
            straight_through=self.training,
        )

    def penalty(self) -> Float[Tensor, ""] | None:
        """Weighted entropy of the learned orders of the last forward pass; None without orders."""
        return self._last.value

    def calibrate(self, graph: Graph) -> None:
        """Passes on to the backbone what it would see, without learned orders."""
        with torch.no_grad():
            super().calibrate(graph)
