"""Free matrices in place of poses: exactly invariant without being in the group, and pulled towards it by a loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.symmetry.penalties import LastPenalty
from geomol.symmetry.pose_networks import check_group, is_smooth, pose_config
from geomol.symmetry.poses import Poses, centroids
from geomol.symmetry.sampled import SampledSymmetriser

LORENTZ = (1.0, -1.0, -1.0, -1.0)
"""Diagonal of the metric of space-time, for O(1,3); that of O(3) is all ones."""


def algebraic_inverse(matrix: Float[Tensor, "*B n n"], metric: Float[Tensor, " n"]) -> Float[Tensor, "*B n n"]:
    """Q Mᵀ Q with Q = diag(metric): the inverse of every member of the group that keeps xᵀ Q x.

    For other M it is no inverse, and still (R M)⁻¹ = M⁻¹ R⁻¹ for R in the group, which is all that invariance needs.
    """
    return metric[:, None] * matrix.mT * metric


def orbit_distance(
    matrix: Float[Tensor, "*B n n"], metric: Float[Tensor, " n"], *, proper: bool = False
) -> Float[Tensor, " *B"]:
    """How far M is from the group: the mean squared entry of Mᵀ Q M − Q, which vanishes exactly on it.

    It does not change under M → R M, so it measures the distance between orbits. With `proper` the squared difference
    of the determinant to 1 is added, which leaves the rotations.
    """
    lengths = (matrix.mT * metric) @ matrix - torch.diag(metric)
    distance = lengths.square().mean((-2, -1))
    return distance + (torch.linalg.det(matrix) - 1).square() if proper else distance


def bound_loss(matrix: Float[Tensor, "*B n n"], bound: float) -> Float[Tensor, " *B"]:
    """Mean of max(|M_ij| − bound, 0): keeps the matrices of a non-compact group from running away."""
    return (matrix.abs() - bound).clamp(min=0).mean((-2, -1))


def towards_the_group(matrix: Float[Tensor, "*B 3 3"], steps: int) -> Float[Tensor, "*B 3 3"]:
    """M / √(1 + |M|²), then `steps` times M ← M (3 − Mᵀ M) / 2: singular values below 1, then each nearer to 1.

    The iteration of Newton and Schulz for the nearest orthogonal matrix (Higham, Functions of Matrices, 2008, section
    8.3), here a fixed number of times: smooth at every M, the zero matrix included, and it commutes with rotations.
    """
    matrix = matrix * (1 + matrix.square().sum((-2, -1), keepdim=True)).rsqrt()
    for _ in range(steps):
        matrix = 1.5 * matrix - 0.5 * matrix @ (matrix.mT @ matrix)
    return matrix


class OrbitDistance(SampledSymmetriser):
    """φ(x) = mean over k of M_k · f(M_k⁻¹ x), with free matrices M_k = M(x, z_k) and the algebraic inverse Mᵀ.

    M(R x, R z) = R M(x, z), and the inverse is a formula, so φ is equivariant whatever M is: at the start of training
    as at the end. The orbit loss in `penalty()` pulls M to the group, so that the backbone sees structures of the right
    size and shape. There is no Gram-Schmidt and nothing singular: φ is continuous. Distances change, so a pair at a
    finite cutoff may appear inside it: smooth on complete graphs only. Where the vectors vanish by symmetry (methane,
    benzene), so does M, and with it all that the backbone sees of the shape.

    Source: Nguyen et al., NeurReps 2023 (arXiv:2311.07143). Departs from it: the vectors of a pose network are divided
    by their size on the first batch (`calibrate`), so that M starts near the group in scale, and `newton_steps`: left
    alone, pose networks give nearly parallel vectors, and the orbit loss is slow to part them.

    Symmetry: `group`, exactly without noise, else on average; sums over noise as in `SampledSymmetriser`.

    Args:
        backbone: see `Symmetriser`.
        pose: see `SampledSymmetriser`; its three vectors are the columns of M.
        group: "E(3)", "SE(3)"; "O(3)" or "SO(3)" turn about the centroid and leave it where it is.
        samples: K in training.
        eval_samples: K in evaluation; None: as in training.
        noise_scale: standard deviation of the noise; 0: none.
        antithetic: noise in pairs ±z.
        orbit_weight: of `orbit_distance` in the penalty.
        bound_weight: of `bound_loss` in the penalty.
        bound: entries up to this size cost nothing.
        newton_steps: of `towards_the_group`; 0: M as the pose network gives it.
        seed: of the noise.

    Raises:
        ConfigError: settings out of range.
    """

    scale: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pose: Mapping[str, object] | nn.Module,
        group: str = "E(3)",
        samples: int = 1,
        eval_samples: int | None = None,
        noise_scale: float = 0.0,
        antithetic: bool = False,
        orbit_weight: float = 1.0,
        bound_weight: float = 1.0,
        bound: float = 2.0,
        newton_steps: int = 0,
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
        check_group(group, self.pose)
        if min(orbit_weight, bound_weight) < 0 or bound <= 0:
            raise ConfigError("weights must not be negative and bound is positive", got=f"{orbit_weight}, {bound}")
        if newton_steps < 0:
            raise ConfigError("newton_steps must not be negative", got=str(newton_steps))
        self.orbit_weight, self.bound_weight, self.bound = orbit_weight, bound_weight, bound
        self.newton_steps = newton_steps
        self.config = {
            "pose": pose_config(self.pose),
            "group": group,
            "samples": samples,
            "eval_samples": eval_samples,
            "noise_scale": noise_scale,
            "antithetic": antithetic,
            "orbit_weight": orbit_weight,
            "bound_weight": bound_weight,
            "bound": bound,
            "newton_steps": newton_steps,
            "seed": seed,
        }
        self.register_buffer("scale", torch.ones(()))
        inner = self.backbone.symmetry
        self._claim(
            group,
            smooth=inner.smooth and is_smooth(self.pose, self.cutoff, rigid=False),  # type: ignore[union-attr]
            continuous=inner.continuous and self.pose.smooth,  # type: ignore[union-attr]
            stochastic=noise_scale > 0,
        )
        self._last = LastPenalty()

    def poses(self, graph: Graph) -> Poses:
        vectors, structure, _ = self.pose_vectors(graph)
        matrix = self.scale.to(graph.pos.dtype) * vectors.axes.to(graph.pos.dtype)
        if self.newton_steps:
            matrix = towards_the_group(matrix, self.newton_steps)
        self._last.value = self._penalty(matrix)
        weight = matrix.new_full((len(structure),), 1 / self.num_samples)
        return Poses(matrix, weight, structure, centroids(graph))  # rows: x Mᵀ⁻¹ = x M by the algebraic inverse

    def _penalty(self, matrix: Float[Tensor, "P 3 3"]) -> Float[Tensor, ""]:
        distance = orbit_distance(matrix, matrix.new_ones(3), proper=self.group in ("SO(3)", "SE(3)"))
        return self.orbit_weight * distance.mean() + self.bound_weight * bound_loss(matrix, self.bound).mean()

    def penalty(self) -> Float[Tensor, ""] | None:
        """Weighted orbit and bound losses of the last forward pass."""
        return self._last.value

    @torch.no_grad()
    def calibrate(self, graph: Graph) -> None:
        """Brings the columns of M to a mean square of 1 on a typical batch, then passes on to the backbone."""
        size = self.pose_vectors(graph)[0].axes.square().sum(-2).mean().sqrt()
        if size > 0:
            self.scale.copy_(1 / size)
        super().calibrate(graph)
