"""Weighted frames that are continuous everywhere: the frames to take where energies are differentiated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError
from geomol.ops import segment_index, segment_max, segment_mean, segment_sum

_SHARPNESS = 12  # power p of the smooth maximum
_TURNS = 4  # frames about the axis of a nearly linear structure; 3 suffice for continuous second derivatives
_LINEAR, _BENT = 0.01, 0.05  # (distance to the axis / length)² between which the turned frames fade out
_ON_AXIS = 1e-10  # the same below which the plane is taken as undefined; see `robust_frames`
_POINT = 1e-20  # Å², below which a structure has no axis at all


@dataclass(frozen=True, eq=False)
class WeightedFrames:
    """P frames of G structures.

    Attributes:
        rotation: orthogonal matrices, axes as columns.
        weight: positive, sums to 1 over the frames of a structure.
        structure: to which each frame belongs, ascending.
        origin: centroid of each structure, Å.
    """

    rotation: Float[Tensor, "P 3 3"]
    weight: Float[Tensor, " P"]
    structure: Int[Tensor, " P"]
    origin: Float[Tensor, "G 3"]


def robust_frames(
    pos: Float[Tensor, "N 3"], ptr: Int[Tensor, " P"], *, mirror: bool = True, bound: float = 0.75
) -> WeightedFrames:
    """Frames spanned by the centroid and two atoms, weighted such that averages over them are smooth everywhere.

    With y_i = x_i − t relative to the centroid t, atoms far from it give the first axis, and of each axis the atoms
    far from that give the plane:

        e₁ = y_i / |y_i|                     a_i = [|y_i|² / L(|y|²) − θ]₊³
        e₂ ∝ y_j − (y_j·e₁) e₁ =: ρ_j        b_ij = [|ρ_j|² / L(|ρ|²) − θ]₊³          e₃ = e₁ × e₂
        w_ij = a_i / Σ a · b_ij / Σ_j b_ij

    L is the Lehmer mean Σ v^(p+1) / Σ v^p, a smooth maximum that never exceeds the maximum, so that one weight is
    always positive. Frames without weight are left out: about ten remain for a small molecule without symmetry, at
    least its number of rotations for a symmetric one, and more for large round structures (2160 for C60). With
    `mirror`, each comes with its mirror image (−e₃), both at half its weight.

    Where a structure becomes linear e₂ loses its meaning, and so do its weights, but not those of e₁, which is why the
    weight is a product. What is seen from a frame depends there on the angle about the axis in first order of ρ. Each
    frame is therefore joined by those turned about e₁ by 90°, 180° and 270°; the average over the four contains the
    angle in order ρ⁴ only. They share the weight equally where |ρ|² < 0.01 |y|², and fade out up to 0.05 |y|². On the
    line itself (|ρ|² < 1e-10 |y|²) e₂ is any vector across; this alters values by 1e-20, gradients by 1e-15 and second
    derivatives by 1e-10 of their size. A single point gets four rotations by 180°, from all of which it looks the same.

    What is promised: averages of a C² function of the positions are C² in the positions (away from all atoms in one
    point), exactly equivariant under rotations (and reflections with `mirror`) and permutations, also for linear,
    planar and highly symmetric structures and single atoms. What is not: vectors given besides positions, such as
    velocities, do not enter the choice, so that dependence on them has no meaning for linear structures and points.

    Source: weighted frames that keep continuity: Dym, Lawrence, Siegel, ICML 2024 (arXiv:2402.16077), who prove that
    no finite unweighted frame does. The product of weights, their bounds and the turned frames are our own.

    Args:
        pos: positions of all structures, Å. Gradients flow through frames and weights.
        ptr: first atom of each structure, and the number of atoms at the end.
        mirror: for O(3); otherwise for SO(3).
        bound: θ, between 0 and 1; the higher, the fewer frames, and the faster their weights change on the way.

    Raises:
        ConfigError: a bound outside (0, 1).
    """
    if not 0 < bound < 1:
        raise ConfigError("the bound of robust frames must lie between 0 and 1", got=str(bound))
    origin = segment_mean(pos, ptr)
    batch = segment_index(ptr, pos.shape[0])
    rel = pos - origin[batch]
    square = rel.square().sum(1)
    size = _lehmer_mean(square, ptr)  # (G,)
    atom, axis_weight = _shares(square, size, batch, ptr, bound, size > _POINT)
    axis = rel[atom] / square[atom].sqrt()[:, None]  # (A, 3)
    row, second, plane_weight, turned = _planes(rel, axis, size[batch[atom]], batch[atom], ptr, bound)
    rotation = _matrices(axis[row], second)
    weight = axis_weight[row] * plane_weight
    rotation, weight, row = _turn_about_axis(rotation, weight, turned, row)
    structure = batch[atom[row]]
    rotation, weight, structure = _with_points(rotation, weight, structure, (size <= _POINT).nonzero()[:, 0])
    if mirror:
        flipped = rotation * rotation.new_tensor([1.0, 1.0, -1.0])
        rotation, weight, structure = torch.cat([rotation, flipped]), weight.repeat(2) / 2, structure.repeat(2)
    order = torch.argsort(structure, stable=True)
    return WeightedFrames(rotation[order], weight[order], structure[order], origin)


def _lehmer_mean(values: Float[Tensor, " N"], ptr: Int[Tensor, " P"]) -> Float[Tensor, " G"]:
    """Σ v^(p+1) / Σ v^p of each segment: smooth, between the mean and the maximum, exact for equal values."""
    index = segment_index(ptr, values.shape[0])
    top = segment_max(values.detach(), ptr)
    top = torch.where(top > 0, top, torch.ones_like(top))  # the mean is homogeneous: its scale carries no gradient
    power = (values / top[index]) ** (_SHARPNESS - 1)
    scaled = values / top[index]
    below = segment_sum(power * scaled, ptr)
    above = segment_sum(power * scaled.square(), ptr)
    return top * above / torch.where(below > 0, below, torch.ones_like(below))


def _shares(
    values: Float[Tensor, " N"],
    scale: Float[Tensor, " G"],
    index: Int[Tensor, " N"],
    ptr: Int[Tensor, " P"],
    bound: float,
    used: Tensor,
) -> tuple[Int[Tensor, " A"], Float[Tensor, " A"]]:
    """Rows with [value / scale − bound]₊³ > 0 in the segments that are `used`, and this weight, of sum 1 in each."""
    safe = torch.where(used, scale, torch.ones_like(scale))
    raw = (values / safe[index] - bound).clamp(min=0) ** 3 * used[index]
    kept = (raw.detach() > 0).nonzero()[:, 0]
    total = segment_sum(raw, ptr)
    return kept, raw[kept] / total[index[kept]]


def _planes(
    rel: Float[Tensor, "N 3"],
    axis: Float[Tensor, "A 3"],
    size: Float[Tensor, " A"],
    structure: Int[Tensor, " A"],
    ptr: Int[Tensor, " P"],
    bound: float,
) -> tuple[Int[Tensor, " Q"], Float[Tensor, "Q 3"], Float[Tensor, " Q"], Float[Tensor, " Q"]]:
    """The planes of each axis: the row of the axis, e₂, the weight, and how much of it is turned about the axis."""
    count = ptr.diff()[structure]
    pairs = torch.cat([count.new_zeros(1), count.cumsum(0)])
    row = segment_index(pairs, int(pairs[-1]))  # (A · atoms,)
    other = torch.arange(len(row), device=row.device) - pairs[row] + ptr[structure][row]
    across = rel[other] - (rel[other] * axis[row]).sum(1, keepdim=True) * axis[row]
    square = across.square().sum(1)
    width = _lehmer_mean(square, pairs)  # (A,)
    bent = width.detach() > _ON_AXIS * size.detach()
    kept, weight = _shares(square, width, row, pairs, bound, bent)
    second = across[kept] / square[kept].sqrt()[:, None]
    turned = 1 - _smooth_step((width / size - _LINEAR) / (_BENT - _LINEAR))
    straight = (~bent).nonzero()[:, 0]
    rows = torch.cat([row[kept], straight])
    return (
        rows,
        torch.cat([second, _any_across(axis[straight])]),
        torch.cat([weight, weight.new_ones(len(straight))]),
        torch.where(bent, turned, torch.ones_like(turned))[rows],
    )


def _any_across(axis: Float[Tensor, "Q 3"]) -> Float[Tensor, "Q 3"]:
    """A unit vector at right angles to each axis."""
    least = torch.nn.functional.one_hot(axis.detach().abs().argmin(1), 3).to(axis)
    across = least - (least * axis).sum(1, keepdim=True) * axis
    return across / across.square().sum(1, keepdim=True).sqrt()


def _smooth_step(u: Float[Tensor, " Q"]) -> Float[Tensor, " Q"]:
    """From 0 at u ≤ 0 to 1 at u ≥ 1 with two continuous derivatives."""
    u = u.clamp(0, 1)
    return u**3 * (10 - 15 * u + 6 * u * u)


def _matrices(first: Float[Tensor, "Q 3"], second: Float[Tensor, "Q 3"]) -> Float[Tensor, "Q 3 3"]:
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)


def _turn_about_axis(
    rotation: Float[Tensor, "Q 3 3"], weight: Float[Tensor, " Q"], turned: Float[Tensor, " Q"], row: Int[Tensor, " Q"]
) -> tuple[Float[Tensor, "P 3 3"], Float[Tensor, " P"], Int[Tensor, " P"]]:
    """Adds the frames turned about the first axis, where they have any weight."""
    some = (turned.detach() > 0).nonzero()[:, 0]
    first, second, third = rotation[some].unbind(2)
    share = weight[some] * turned[some] / _TURNS
    others = [
        torch.stack(columns, dim=2)
        for columns in ((first, third, -second), (first, -second, -third), (first, -third, second))
    ]
    kept = weight * (1 - turned * (1 - 1 / _TURNS))
    return (
        torch.cat([rotation, *others]),
        torch.cat([kept, *[share] * len(others)]),
        torch.cat([row, *[row[some]] * len(others)]),
    )


def _with_points(
    rotation: Float[Tensor, "Q 3 3"],
    weight: Float[Tensor, " Q"],
    structure: Int[Tensor, " Q"],
    points: Int[Tensor, " S"],
) -> tuple[Float[Tensor, "P 3 3"], Float[Tensor, " P"], Int[Tensor, " P"]]:
    """Adds half turns about the coordinate axes for structures without extent: any vector averages to 0 over them."""
    if len(points) == 0:
        return rotation, weight, structure
    signs = rotation.new_tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return (
        torch.cat([rotation, torch.diag_embed(signs).repeat(len(points), 1, 1)]),
        torch.cat([weight, weight.new_full((4 * len(points),), 0.25)]),
        torch.cat([structure, points.repeat_interleave(4)]),
    )
