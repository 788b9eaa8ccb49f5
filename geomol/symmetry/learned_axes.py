"""Axes of structures from the vectors of a pose network, also where the structure has a symmetry of its own."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomol.errors import GeomolWarning
from geomol.graph import Graph
from geomol.ops import segment_mean
from geomol.symmetry.gram_schmidt import gram_schmidt, spanned
from geomol.symmetry.pose_base import PoseVectors

_EQUAL = 1e-6  # principal moments closer than this, relative to the largest, count as equal


class LearnedAxes:
    """Gram-Schmidt on the vectors of a pose network, completed by the principal axes of the structure.

    Equivariant vectors lie in the line or plane that a structure's own rotations and mirror planes leave fixed: the
    vectors of water all point along its axis, those of benzene vanish. Such a structure looks the same from several
    poses. Where it has three different principal moments, or no extent off its axis, completing the pose by principal
    axes gives one of these equal poses: sums of scalars stay exactly invariant (atoms that the structure's symmetry
    maps on each other may swap their share). Otherwise (benzene, methane, a perfect crystal), and where the network is
    blind to a difference that is there, the choice depends on the orientation, and a `GeomolWarning` says so, once.

    Args:
        third: see `gram_schmidt`.
        softness: see `gram_schmidt`; nothing is completed where it is positive.
    """

    def __init__(self, third: str, softness: float) -> None:
        self.third, self.softness = third, softness
        self.has_warned = False

    def __call__(self, vectors: PoseVectors, graph: Graph) -> Float[Tensor, "G 3 3"]:
        """Axes as columns, in the precision of the positions of `graph`."""
        axes, precision = vectors.axes.to(graph.pos.dtype), vectors.axes.dtype
        is_missing = ~spanned(axes, precision)
        if self.softness or not bool(is_missing.any()):
            return gram_schmidt(axes, third=self.third, softness=self.softness, precision=precision)
        fallback, is_degenerate = principal_axes(graph)
        rotation = gram_schmidt(axes, third=self.third, fallback=fallback, precision=precision)
        is_completed = torch.cat([is_missing, is_missing.any(1, keepdim=True)], dim=1)
        is_blind = (is_completed & is_skewed(graph, rotation)).any(1)
        self._warn(is_missing.any(1) & is_degenerate | is_blind)
        return rotation

    def _warn(self, is_arbitrary: Bool[Tensor, " G"]) -> None:
        if self.has_warned or not bool(is_arbitrary.any()):
            return
        self.has_warned = True
        warnings.warn(
            f"{int(is_arbitrary.sum())} of {len(is_arbitrary)} structures leave the pose network without a pose, by a "
            "symmetry of their own or because it reads too little: predictions for them depend on their orientation; "
            "robust frames do not have this fault",
            GeomolWarning,
            stacklevel=4,
        )


@torch.no_grad()
def principal_axes(graph: Graph) -> tuple[Float[Tensor, "G 3 3"], Bool[Tensor, " G"]]:
    """Principal axes of each structure as columns, longest first, and where two of its moments are equal but not zero.

    A periodic structure has none: it gets the axes of the coordinates, as arbitrary as they are.
    """
    if graph.is_periodic:
        eye = torch.eye(3, dtype=graph.pos.dtype, device=graph.device).expand(graph.num_graphs, 3, 3)
        return eye, torch.ones(graph.num_graphs, dtype=torch.bool, device=graph.device)
    pos = graph.pos - segment_mean(graph.pos, graph.ptr)[graph.batch]
    moments, axes = torch.linalg.eigh(segment_mean(pos[:, :, None] * pos[:, None, :], graph.ptr))
    small = _EQUAL * moments[:, 2:]
    is_equal = (moments.diff(dim=1) <= small) & (moments[:, 1:] > small)
    return axes.flip(-1), is_equal.any(1)


@torch.no_grad()
def is_skewed(graph: Graph, axes: Float[Tensor, "G 3 3"]) -> Bool[Tensor, "G 3"]:
    """Whether a structure differs from its mirror image along an axis, by the third moment of its positions."""
    pos = graph.pos - segment_mean(graph.pos, graph.ptr)[graph.batch]
    along = (pos[:, None, :] @ axes[graph.batch])[:, 0]
    size = segment_mean(pos.square().sum(1), graph.ptr) ** 1.5
    return segment_mean(along**3, graph.ptr).abs() > _EQUAL * size[:, None]
