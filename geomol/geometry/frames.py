"""Frames of point sets from principal axes: a few poses that turn with the structure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.errors import ConfigError
from geomol.ops import segment_index, segment_mean, segment_sum

ORDERS = ("ascending", "descending")
SIGNS = ("all", "single", "random")

_DEGENERATE = 1e-6  # gap between eigenvalues, in units of the largest, below which two axes count as exchangeable
_FLAT = 1e-12  # eigenvalue, in units of the largest, below which the points do not extend along an axis
_UNDECIDED = 1e-9  # third moment of unit-variance projections below which an axis has no direction


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """Principal axes of G point sets, with what their use as a frame hangs on.

    Attributes:
        axes: unit vectors as columns; in two dimensions the third is z.
        eigenvalues: of the scatter matrix Σ y yᵀ, in the order of the axes, Å²; in two dimensions the third is NaN.
        origin: mean position, Å; in two dimensions with z = 0.
    """

    axes: Float[Tensor, "G 3 3"]
    eigenvalues: Float[Tensor, "G 3"]
    origin: Float[Tensor, "G 3"]

    @property
    def gap(self) -> Float[Tensor, " G"]:
        """Smallest difference of two eigenvalues in units of the largest; 0 for a sphere, a line or a single point."""
        return self._steps().amin(1)

    @property
    def rank(self) -> Int[Tensor, " G"]:
        """Dimension of the point set: 0 point, 1 line, 2 plane, 3 space."""
        values = self.eigenvalues.detach().nan_to_num(0.0)
        return (values > _FLAT * values.amax(1, keepdim=True)).sum(1)

    @property
    def is_degenerate(self) -> Bool[Tensor, " G"]:
        """Where two axes along which the points extend are exchangeable: the frame is arbitrary, and averages over it
        are not invariant. Exchangeable axes across a line, or of a point, do not matter to positions.
        """
        values = self.eigenvalues.detach()
        larger = torch.maximum(values[:, 1:], values[:, :-1])
        matters = larger > _FLAT * values.nan_to_num(0.0).amax(1, keepdim=True)
        return ((self._steps() < _DEGENERATE) & matters).any(1)

    def _steps(self) -> Float[Tensor, "G 2"]:
        """Differences of successive eigenvalues in units of the largest."""
        values = self.eigenvalues.detach()
        largest = values.nan_to_num(0.0).amax(1, keepdim=True)
        scale = torch.where(largest > 0, largest, torch.ones_like(largest))
        return (values.diff(dim=1).abs() / scale).nan_to_num(torch.inf)


class _Eigh(torch.autograd.Function):
    """Eigenvalues and eigenvectors of symmetric matrices, with derivatives that stay finite.

    dλ_i = u_iᵀ dC u_i,  du_i = Σ_{j ≠ i} u_j (u_jᵀ dC u_i) / (λ_i − λ_j). Terms with |λ_i − λ_j| ≤ `min_gap` · max |λ|
    are left out: within a degenerate plane the axes are treated as constants. The derivative is then not that of the
    (discontinuous) map, only finite. It is written in differentiable operations, so higher derivatives follow, with
    the same terms left out.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, min_gap: float) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        ctx.min_gap = min_gap
        return values, vectors

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor, grad_vectors: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        gap = values[:, None, :] - values[:, :, None]  # [i, j]: λ_j − λ_i
        far = gap.detach().abs() > ctx.min_gap * values.detach().abs().amax(1)[:, None, None]
        inverse = torch.where(far, 1 / torch.where(far, gap, torch.ones_like(gap)), torch.zeros_like(gap))
        inner = torch.diag_embed(grad_values) + inverse * (vectors.mT @ grad_vectors)
        grad = vectors @ inner @ vectors.mT
        return (grad + grad.mT) / 2, None


def eigh(
    matrix: Float[Tensor, "G D D"], *, min_gap: float = _DEGENERATE
) -> tuple[Float[Tensor, "G D"], Float[Tensor, "G D D"]]:
    """Eigenvalues, ascending, and eigenvectors as columns of symmetric matrices, with finite derivatives everywhere.

    `torch.linalg.eigh` divides by differences of eigenvalues in its derivative, which gives NaN for symmetric
    structures. Here axes whose eigenvalues differ by less than `min_gap` (in units of the largest) are not
    differentiated into each other.
    """
    values, vectors = _Eigh.apply(matrix, min_gap)  # type: ignore[no-untyped-call]
    return values, vectors


def scatter_matrix(rel: Float[Tensor, "N D"], ptr: Int[Tensor, " P"]) -> Float[Tensor, "G D D"]:
    """Σ y yᵀ over the points of each structure."""
    return segment_sum(rel[:, :, None] * rel[:, None, :], ptr)


def principal_axes(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    *,
    order: str = "ascending",
    planar: bool = False,
    differentiable: bool = False,
    min_gap: float = _DEGENERATE,
) -> PrincipalAxes:
    """Eigenvectors of the scatter matrix Σ (x − t)(x − t)ᵀ of each structure, t the mean; signs are arbitrary.

    Args:
        pos: positions of all structures, Å.
        ptr: first point of each structure, and the number of points at the end.
        order: of the eigenvalues: "ascending" (frame averaging) or "descending" (FAENet).
        planar: axes in the xy plane only, as for slabs: z is neither turned nor centred.
        differentiable: keep the derivatives of the axes; otherwise the axes (not the origin) count as constants, as
            published. Forces that are the gradient of an averaged energy need them.
        min_gap: difference of eigenvalues, in units of the largest, below which the two axes are not differentiated
            into each other; keeps symmetric structures finite.

    Raises:
        ConfigError: unknown order.
    """
    if order not in ORDERS:
        raise ConfigError("unknown order of eigenvalues", expected=" or ".join(ORDERS), got=order)
    origin = segment_mean(pos, ptr)
    if planar:
        origin = origin * origin.new_tensor([1.0, 1.0, 0.0])
    rel = pos - origin[segment_index(ptr, pos.shape[0])]
    if planar:
        rel = rel[:, :2]
    values, vectors = eigh(scatter_matrix(rel if differentiable else rel.detach(), ptr), min_gap=min_gap)
    if order == "descending":
        values, vectors = values.flip(1), vectors.flip(2)
    if planar:
        axes = vectors.new_zeros(len(vectors), 3, 3)
        axes[:, 2, 2] = 1.0
        axes = axes + torch.nn.functional.pad(vectors, (0, 1, 0, 1))
        values = torch.nn.functional.pad(values, (0, 1), value=torch.nan)
        return PrincipalAxes(axes, values, origin)
    return PrincipalAxes(vectors, values, origin)


def frame_signs(group: str, *, planar: bool = False) -> Float[Tensor, "F 3"]:
    """The sign choices of a frame: all for "O(3)"; for "SO(3)" those of product +1, to follow axes of determinant +1.

    8 and 4 in space, 4 and 2 in the plane.

    Raises:
        ConfigError: another group.
    """
    if group not in ("O(3)", "SO(3)"):
        raise ConfigError("unknown group of frames", expected="O(3) or SO(3)", got=group)
    choices = itertools.product((1.0, -1.0), (1.0, -1.0), (1.0,) if planar else (1.0, -1.0))
    signs = torch.tensor(list(choices), dtype=torch.float64)
    return signs if group == "O(3)" else signs[signs.prod(1) > 0]


def pca_frames(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    *,
    group: str = "O(3)",
    signs: str = "all",
    order: str = "ascending",
    planar: bool = False,
    differentiable: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "G F 3 3"], PrincipalAxes]:
    """Frames from principal axes: orthogonal matrices with the axes as columns, which turn with the structure.

    The set of all frames is equivariant where the eigenvalues differ. It jumps where two of them cross, which shows in
    any average over it (Dym, Lawrence, Siegel, arXiv:2402.16077); `PrincipalAxes.gap` tells how close that is, and
    `robust_frames` do not have this fault.

    Source: Puny et al., ICLR 2022 (arXiv:2110.03336); stochastic choice and planar frames: Duval et al., ICML 2023
    (arXiv:2305.05577). Departs from the latter: the deterministic choice takes signs from the third moments of the
    projections, which turn with the structure; the published one, from the sums of the entries of the eigenvectors,
    depends on the orientation of the input. Frames of SO(3) always have determinant +1.

    Args:
        pos: positions of all structures, Å.
        ptr: first point of each structure, and the number of points at the end.
        group: "O(3)": 8 frames, mirror images among them; "SO(3)": the 4 rotations.
        signs: "all"; "single": one frame by the rule above, which is a further source of jumps, and arbitrary where a
            third moment vanishes; "random": one of all, drawn for each structure. The draw counts from the frame of
            "single", so that a structure that is turned gets, by the same draw, the frame that is turned.
        order: see `principal_axes`, as for `planar` and `differentiable`.
        planar: half as many frames.
        differentiable: whether frames have derivatives.
        generator: for "random".

    Returns:
        The frames, and the axes that they come from.

    Raises:
        ConfigError: unknown group, order or signs.
    """
    if signs not in SIGNS:
        raise ConfigError("unknown choice of signs", expected=", ".join(SIGNS), got=signs)
    choices = frame_signs(group, planar=planar).to(pos)
    found = principal_axes(pos, ptr, order=order, planar=planar, differentiable=differentiable)
    proper = group == "SO(3)"
    if signs == "all":
        axes = _right_handed(found.axes, planar=planar) if proper else found.axes
        return axes[:, None] * choices[None, :, None, :], found
    axes = _directed(pos, ptr, found, proper=proper, planar=planar)
    if signs == "random":
        drawn = torch.randint(len(choices), (len(axes),), generator=generator, device=pos.device)
        axes = axes * choices[drawn][:, None, :]
    return axes[:, None], found


def _right_handed(axes: Float[Tensor, "G 3 3"], *, planar: bool) -> Float[Tensor, "G 3 3"]:
    """Determinant +1 by a cross product: the third axis from the first two, or in the plane the second from z."""
    first, second, third = axes.unbind(2)
    if planar:
        return torch.stack([first, torch.linalg.cross(third, first), third], dim=2)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)


def _directed(
    pos: Float[Tensor, "N 3"], ptr: Int[Tensor, " P"], found: PrincipalAxes, *, proper: bool, planar: bool
) -> Float[Tensor, "G 3 3"]:
    """Axes that point to where the third moment of the projections is positive; the last by handedness if `proper`."""
    axes, batch = found.axes, segment_index(ptr, pos.shape[0])
    with torch.no_grad():
        along = torch.einsum("nk,nkf->nf", pos - found.origin[batch], axes[batch])
        spread = segment_mean(along.square(), ptr).sqrt()
        moment = segment_mean(along**3, ptr)
        sign = torch.where(moment < -_UNDECIDED * spread**3, -1.0, 1.0).to(pos.dtype)
        if planar:
            sign[:, 2] = 1.0
    axes = axes * sign[:, None, :]
    return _right_handed(axes, planar=planar) if proper else axes
