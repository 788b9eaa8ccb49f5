"""Learned canonicalisation: a small equivariant network chooses one pose, the backbone sees the structure from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import Features
from geomol.symmetry.learned_axes import LearnedAxes
from geomol.symmetry.penalties import LastPenalty
from geomol.symmetry.pose_base import PoseVectors
from geomol.symmetry.pose_networks import build_pose_network, check_group, is_smooth, pose_config
from geomol.symmetry.poses import Poses, Symmetriser, average_over_poses, centroids
from geomol.symmetry.shifted import ABOUT_CENTROID, ShiftedBackbone

ORIGINS = ("centroid", "learned")


class Canonicalised(Symmetriser):
    """φ(x) = c(x) · f(c(x)⁻¹ x): one pose c per structure, from the vectors of a pose network by Gram-Schmidt.

    Sources: Kaba et al., ICML 2023 (arXiv:2211.06489); the prior of Mondal et al., NeurIPS 2023 (arXiv:2310.01647):
    the mean squared difference of the nine entries of the pose to the identity, 4 (1 − cos θ) / 9 for a rotation by θ.

    Departs from them: pose networks without biases on vectors (with them it is not equivariant); for SO(3) and SE(3)
    the third axis is the cross product of the first two, which follows the structure more smoothly; vectors that vanish
    because the structure has a symmetry of its own are completed, see `LearnedAxes`.

    Symmetry: `group`, exactly, for structures that have a pose; see `LearnedAxes` for the others. Not continuous: no
    choice of one pose is (the axes turn ever faster towards structures without a pose), unless `softness` > 0. Softened
    axes shorten distances, so a pair at a finite cutoff appears inside it: smooth on complete graphs only. Where the
    vectors vanish (carbon dioxide, methane, benzene), softened axes show all atoms in one point: the backbone then sees
    no distances, and the energy does not change as long as the structure keeps its symmetry.

    To make a trained model without symmetry equivariant, wrap and freeze it, and train the pose network alone on the
    same task with the prior, so that it finds the poses that the model has seen:

        plain = geomol.load("runs/plain/model.safetensors")
        wrapped = Canonicalised(plain.backbone, pose={"name": "egnn_vectors", …}, frozen=True, prior_weight=1.0)

    Args:
        backbone: see `Symmetriser`.
        pose: a pose network: {"name": one of `POSE_NETWORKS`, …}.
        group: "E(3)", "SE(3)"; "O(3)" or "SO(3)" turn about the centroid and leave it where it is.
        origin: "centroid", or "learned": from the centroid by a vector of the pose network.
        prior_weight: factor of the prior in `penalty()`; 0 for none.
        frozen: the backbone keeps its weights and stays in evaluation mode, whatever `train()` says.
        third: rule for the third axis, see `gram_schmidt`; None chooses by the group.
        softness: see `gram_schmidt`.

    Raises:
        ConfigError: settings that contradict each other.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pose: Mapping[str, object] | nn.Module,
        group: str = "E(3)",
        origin: str = "centroid",
        prior_weight: float = 0.0,
        frozen: bool = False,
        third: str | None = None,
        softness: float = 0.0,
    ) -> None:
        super().__init__(backbone)
        self.pose = build_pose_network(pose, backbone)
        self.axes = LearnedAxes(check_group(group, self.pose, third), softness)
        if origin not in ORIGINS:
            raise ConfigError("unknown origin", expected=" or ".join(ORIGINS), got=origin)
        if origin == "learned" and not (self.pose.has_shift and group in ("E(3)", "SE(3)")):
            raise ConfigError('origin="learned" needs a pose network that gives one, and group E(3) or SE(3)')
        if prior_weight < 0 or softness < 0:
            raise ConfigError("prior_weight and softness must not be negative", got=f"{prior_weight}, {softness}")
        self.group, self.origin = group, origin
        self.prior_weight, self.frozen = prior_weight, frozen
        self.config = {
            "pose": pose_config(self.pose),
            "group": group,
            "origin": origin,
            "prior_weight": prior_weight,
            "frozen": frozen,
            "third": third,
            "softness": softness,
        }
        rigid = softness == 0
        smooth = self.backbone.symmetry.smooth and is_smooth(self.pose, self.cutoff, rigid=rigid)  # type: ignore[union-attr]
        continuous = self.pose.smooth and softness > 0 and self.backbone.symmetry.continuous  # type: ignore[union-attr]
        self._claim(group, smooth=smooth, continuous=continuous)
        self._last = LastPenalty()
        if frozen:
            self.backbone.requires_grad_(False)
            self.backbone.eval()

    def poses(self, graph: Graph) -> Poses:
        vectors: PoseVectors = self.pose(graph)
        rotation = self.axes(vectors, graph)
        self._last.value = self.prior_weight * prior_loss(rotation) if self.prior_weight else None
        num = graph.num_graphs
        return Poses(
            rotation, rotation.new_ones(num), torch.arange(num, device=graph.device), self._origin(graph, vectors)
        )

    def forward(self, graph: Graph) -> Features:
        poses = self.poses(graph)
        backbone = ShiftedBackbone(self.backbone, poses.origin) if self.group in ABOUT_CENTROID else self.backbone
        return average_over_poses(backbone, graph, poses)

    def _origin(self, graph: Graph, vectors: PoseVectors) -> Float[Tensor, "G 3"]:
        middle = centroids(graph)
        if self.origin == "centroid" or vectors.shift is None:
            return middle
        return middle + vectors.shift.to(middle.dtype)

    def penalty(self) -> Float[Tensor, ""] | None:
        """Weighted prior of the last forward pass; None without one."""
        return self._last.value

    def calibrate(self, graph: Graph) -> None:
        """As of any wrapper; frozen weights stay."""
        if not self.frozen:
            super().calibrate(graph)

    def train(self, mode: bool = True) -> Self:
        """As of any module; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def prior_loss(rotation: Float[Tensor, "P 3 3"]) -> Float[Tensor, ""]:
    """Mean squared difference of the entries to those of the identity: 0 for no turn, at most 8/9 for a rotation."""
    eye = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return (rotation - eye).square().mean()
