"""A symmetry for each rigid part: frames of the parts instead of one frame of the whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import Graph, parse_edge_rule
from geomol.models import Calibrated, Features
from geomol.ops import gather_rows
from geomol.symmetry.frame_averaging import FrameAveraging
from geomol.symmetry.part_graph import PartGraph, split_graph
from geomol.symmetry.part_networks import Partition, build_part_network, part_config
from geomol.symmetry.penalties import LastPenalty
from geomol.symmetry.poses import Poses, average_over_poses, pose_graph

GROUPS = ("SE(3)", "E(3)")
FRAMES = ("robust", "pca", "single", "stochastic")
OUTSIDE = ("removed", "contracted")
_TINY = 1e-30  # under the logarithm of a share


class PartFrames(FrameAveraging):
    """Gives any backbone a symmetry for each part of a structure: it sees every part from frames that turn with it.

        ψ(x)_i = Σ_k w_ik Σ_{g ∈ F(x, w_k)} p(g) g φ(g⁻¹ x, w_k)_i,    Σ_k w_ik = 1

    F(x, w_k) are the frames of `FrameAveraging` of the points w_ik (x_i − t_k) about the weighted centroid t_k of part
    k. The shares w come from a part network: given, fixed, by distance, or learned from invariants. What one part is
    shown never depends on where the others are, but for the nodes that they share.

    Source: Atzmon et al., "Approximately Piecewise E(3) Equivariant Point Networks", ICLR 2024 (arXiv:2402.08529).
    Departs from it: frames are those of the weighted points themselves, whose covariance has w² where theirs has w, so
    that robust frames serve as well; nodes outside a part may be left out instead of drawn to its centre; shares below
    `least` count as none. Going from fine parts to coarse ones is left to nesting: the backbone of `LearnedParts` may
    be one of these wrappers in turn.

    Symmetry: `group`, for the structure as a whole, exactly, as far as the frames and the part network have it. For
    each part by itself only with a partition that stays as it is when parts move: exactly, where every node belongs to
    one part (shares up to `least` beside it do no harm), vectors then turn with the part of their node and scalars
    stay. Otherwise as well as the shares tell the parts apart: see `uncertainty`. Three more things it takes: edges
    inside a part must not depend on the others (complete, within a radius, found by the backbone, or by `edges`; the
    nearest neighbours of a whole cloud do), parts must have frames (see `FrameAveraging`), and whatever reads the
    features, pooling over the whole, must leave it so. Learned shares follow from invariants of the whole, which change
    when its parts move: no symmetry of parts is claimed, it is as good as the shares are steady.

    Continuous with robust frames, and shares that are constant or nodes that are contracted. "removed" lets nodes jump
    into and out of a part where their share reaches `least`. Contracted points are nearer to each other than the edges
    know: smooth on complete graphs only.

    Args:
        backbone: any backbone; with `tell_weight` its first of `in_scalars` columns is the share, 1 deep inside a part.
            Columns of the part network's `context` come next.
        parts: a part network: {"name": one of `PART_NETWORKS`, …}.
        group: "SE(3)" or "E(3)".
        frames: of each part, "robust", "pca", "single" or "stochastic", see `FrameAveraging`, as for `order`,
            `evaluation`, `differentiable`, `bound` and `seed`.
        outside: nodes of no share in a part are "removed" from it (it costs as much as the parts have nodes), or
            "contracted" to its centroid with all others in proportion to their share (K times the whole).
        least: shares up to here count as none; the rest makes up for them. Below 1 / number of parts.
        tell_weight: tell the backbone the share of each node.
        edges: inside each part: "graph" (those of the graph with both ends in the part), or a rule such as "knn-16".
        entropy_weight: factor of the mean −Σ_k w_ik log w_ik in `penalty()`, which makes learned shares decide.

    Raises:
        ConfigError: unknown or contradicting settings, a part network without the symmetry asked for.
        ModelDomainError: at call, a periodic structure.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        parts: Mapping[str, object] | nn.Module,
        group: str = "E(3)",
        frames: str = "pca",
        outside: str = "removed",
        least: float = 0.05,
        tell_weight: bool = True,
        edges: str = "graph",
        entropy_weight: float = 0.0,
        order: str = "ascending",
        evaluation: str = "all",
        differentiable: bool = True,
        bound: float = 0.75,
        seed: int = 0,
    ) -> None:
        for name, value, known in (("group", group, GROUPS), ("frames", frames, FRAMES), ("outside", outside, OUTSIDE)):
            if value not in known:
                raise ConfigError(f"unknown {name} of part frames", expected=", ".join(known), got=str(value))
        super().__init__(
            backbone=backbone,
            group=group,
            frames=frames,
            order=order,
            evaluation=evaluation,
            differentiable=differentiable,
            bound=bound,
            seed=seed,
        )
        self.parts = build_part_network(parts)
        self.outside, self.least, self.tell_weight, self.entropy_weight = outside, least, tell_weight, entropy_weight
        self.rule = None if edges == "graph" else parse_edge_rule(edges)
        self.edges = edges
        del self.config["periodic"]
        self.config |= {
            "parts": part_config(self.parts),
            "outside": outside,
            "least": least,
            "tell_weight": tell_weight,
            "edges": edges,
            "entropy_weight": entropy_weight,
        }
        self._check()
        self._claim_parts()
        self._last = LastPenalty()

    def _check(self) -> None:
        if not 0 <= self.least * self.parts.num_parts < 1 or self.entropy_weight < 0:
            raise ConfigError(
                "`least` must lie between 0 and 1 / number of parts, and entropy_weight not below 0",
                got=f"{self.least} of {self.parts.num_parts} parts, {self.entropy_weight}",
            )
        had = self.parts.symmetry.group
        if had not in ("E(3)", self.group):
            raise ConfigError(
                f'shares of symmetry "{had}" cannot give "{self.group}"',
                remedy="use an invariant backbone for the parts",
            )
        told, inner = int(self.tell_weight) + self.parts.context, self.backbone
        while isinstance(below := getattr(inner, "backbone", None), nn.Module):
            inner = below
        read = getattr(inner, "config", {}).get("in_scalars", told)
        if read < told:
            raise ConfigError(
                "the backbone does not read what it is told of its part",
                expected=f"in_scalars of {told} or more",
                got=str(read),
                remedy="set it, or tell_weight=false",
            )

    def _claim_parts(self) -> None:
        """On top of what frames claim: what the shares take away."""
        of_frames, of_parts = self.symmetry, self.parts.symmetry
        contracted = self.outside == "contracted"
        steady = self.rule is None or self.rule.name in ("none", "fc")
        continuous = (contracted and of_parts.continuous) or self.parts.constant
        smooth = self.parts.constant and not contracted
        if contracted and math.isinf(self.cutoff):
            smooth = of_parts.smooth and (self.least == 0 or self.parts.constant)
        self.symmetry = dataclasses.replace(
            of_frames,
            exact=of_frames.exact and of_parts.exact,
            smooth=of_frames.smooth and smooth and steady,
            continuous=of_frames.continuous and continuous and steady,
            stochastic=of_frames.stochastic or of_parts.stochastic,
        )

    def partition(self, graph: Graph) -> Partition:
        """The shares of every node, those up to `least` taken as none, with what else is known of the parts."""
        found: Partition = self.parts(graph)
        if self.least == 0 or self.parts.hard:
            return found
        weights = (found.weights - self.least).clamp(min=0)
        return dataclasses.replace(found, weights=weights / weights.sum(1, keepdim=True))

    def uncertainty(self, graph: Graph) -> Float[Tensor, " N"]:
        """1 − the largest share of each node: 0 where its part is certain."""
        return 1 - self.partition(graph).weights.amax(1)

    def split(self, graph: Graph) -> PartGraph:
        """The parts of the structures, with the share of each node and the context before its other scalars.

        Raises:
            ModelDomainError: a periodic structure.
        """
        if graph.is_periodic:
            raise ModelDomainError(
                "parts of a periodic structure have no centroid", expected="molecules", got="a periodic cell"
            )
        found = self.partition(graph)
        self._last.value = self._entropy(found.weights) if self.entropy_weight else None
        apart = split_graph(found.graph, found.weights, contracted=self.outside == "contracted", rule=self.rule)
        told = [apart.weight[:, None]] if self.tell_weight else []
        if found.context is not None:
            told.append(gather_rows(found.context, apart.node))
        if apart.seen.node_scalars is not None:
            told.append(apart.seen.node_scalars)
        if not told:
            return apart
        dtype = torch.promote_types(told[0].dtype, told[-1].dtype)
        scalars = torch.cat([columns.to(dtype) for columns in told], dim=1)
        return dataclasses.replace(apart, seen=apart.seen.replace(node_scalars=scalars))

    def _entropy(self, weights: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
        return -self.entropy_weight * (weights * (weights + _TINY).log()).sum(1).mean()

    def forward(self, graph: Graph) -> Features:
        apart = self.split(graph)
        seen = average_over_poses(self.backbone, apart.seen, self._poses_of(apart))
        return apart.join(seen, graph.num_nodes)

    def _poses_of(self, apart: PartGraph) -> Poses:
        """In float64: parts may be as small as two points, whose line rounding would widen to a plane."""
        return self.poses(apart.weighted.replace(pos=apart.weighted.pos.double()))

    def penalty(self) -> Float[Tensor, ""] | None:
        """Weighted entropy of the shares in the last forward pass; None without a weight."""
        return self._last.value

    def calibrate(self, graph: Graph) -> None:
        """Passes on to the part network the whole, and to the backbone the parts as it would see them."""
        with torch.no_grad():
            whole = getattr(self.parts, "backbone", None)
            if isinstance(whole, Calibrated):
                whole.calibrate(graph)
            if isinstance(self.backbone, Calibrated):
                apart = self.split(graph)
                self.backbone.calibrate(pose_graph(apart.seen, self._poses_of(apart))[0])
