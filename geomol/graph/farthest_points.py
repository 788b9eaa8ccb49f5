"""Farthest point sampling: a subset that covers each cloud evenly."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError
from geomol.graph.cloud_checks import check_clouds, check_count
from geomol.graph.point_edges import counts_to_ptr, ptr_to_batch
from geomol.ops import segment_mean

OUTERMOST = "outermost"


def kept_ptr(ptr: Int[Tensor, " P"], *, ratio: float | None = None, count: int | None = None) -> Int[Tensor, " P"]:
    """Row pointers of the points that `farthest_points` keeps: ⌈ratio · n⌉ of each cloud, or min(count, n).

    Raises:
        ConfigError: not exactly one of `ratio` in (0, 1] and `count` ≥ 1.
    """
    if (ratio is None) == (count is None):
        raise ConfigError("how many points to keep is not stated once", expected="either `ratio` or `count`")
    sizes = ptr.diff()
    if count is not None:
        return counts_to_ptr(sizes.clamp(max=check_count(count, "`count`")))
    if not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise ConfigError("`ratio` out of range", expected="above 0, at most 1", got=repr(ratio))
    # 0.07 · 100 is 7.000000000000001 in floating point, and 7 points are meant
    return counts_to_ptr(torch.tensor([math.ceil(ratio * n - 1e-9 * n) for n in sizes.tolist()]).to(ptr))


def random_starts(ptr: Int[Tensor, " P"], *, generator: torch.Generator) -> Int[Tensor, " S"]:
    """A first point for each cloud, uniformly at random, for `farthest_points(start=...)`."""
    drawn = torch.rand(len(ptr) - 1, generator=generator, dtype=torch.float64).to(ptr.device)
    return (drawn * ptr.diff()).long().minimum(ptr.diff() - 1)


@torch.no_grad()
def farthest_points(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    *,
    ratio: float | None = None,
    count: int | None = None,
    start: int | Int[Tensor, " S"] | str = 0,
) -> Int[Tensor, " M"]:
    """Rows of `pos` such that in each cloud every next one is the point farthest from those chosen before.

    Gonzalez 1985 (a cover within twice the best radius); Eldar et al. 1997. Distances are formed in float64 from sums
    in a fixed order, and of equally far points the first is taken, so that CPU and GPU agree and a plain double loop
    gives the same rows. Points that occur twice are chosen last. O(n · kept) per cloud; clouds run side by side.

    Symmetry: distances alone decide, so the choice commutes with rotations, reflections and translations as long as no
    two distances tie within rounding (points on a grid do tie: jitter them). It depends on the order of the points
    through `start` alone, and not at all with "outermost".

    Args:
        ratio: keep ⌈ratio · n⌉ of the n points of a cloud. `count`: keep that many, or all where there are fewer.
        start: first point, counted within each cloud: one number for all, one for each (see `random_starts`), or
            "outermost", the point farthest from the centroid.

    Returns:
        Rows of `pos`, cloud by cloud in the order of choice; `kept_ptr` has the row pointers.

    Raises:
        InputError: an empty cloud, or a point that is not finite. ConfigError: ratio, count or start out of range.
    """
    check_clouds(pos, ptr)
    kept = kept_ptr(ptr, ratio=ratio, count=count)
    sizes, kept_sizes = ptr.diff(), kept.diff()
    if not len(sizes):
        return ptr.new_empty(0)
    slot = torch.arange(int(sizes.max()), device=pos.device)
    rows = (ptr[:-1, None] + slot).clamp(max=len(pos) - 1)
    xyz = pos.double().T[:, rows]  # (3, S, n)
    gap = torch.where(slot < sizes[:, None], float("inf"), -1.0).double()  # squared distance to the chosen; −1: out
    current = _first(start, pos, ptr)
    chosen = torch.empty(len(sizes), int(kept_sizes.max()), dtype=torch.int64, device=pos.device)
    for step in range(chosen.shape[1]):
        chosen[:, step] = current
        at = current[:, None]
        x, y, z = (axis - axis.gather(1, at) for axis in xyz)
        gap = torch.minimum(gap, x * x + y * y + z * z).scatter_(1, at, -1.0)
        current = gap.argmax(1)  # the first of equal ones
    wanted = torch.arange(chosen.shape[1], device=pos.device) < kept_sizes[:, None]
    return (chosen + ptr[:-1, None])[wanted]


def _first(start: int | Tensor | str, pos: Tensor, ptr: Tensor) -> Tensor:
    sizes = ptr.diff()
    if isinstance(start, str):
        if start != OUTERMOST:
            raise ConfigError(f'unknown start "{start}"', expected=f'a number, a tensor or "{OUTERMOST}"')
        batch, exact = ptr_to_batch(ptr), pos.double()
        # centred on the first point, so that a cloud far from the origin keeps its digits
        local = exact - exact[ptr[:-1]][batch]
        squared = (local - segment_mean(local, ptr)[batch]).square().sum(1)
        slot = torch.arange(int(sizes.max()), device=pos.device)
        rows = (ptr[:-1, None] + slot).clamp(max=len(pos) - 1)
        return torch.where(slot < sizes[:, None], squared[rows], -1.0).argmax(1)
    first = start.to(ptr) if isinstance(start, Tensor) else torch.full_like(sizes, start)
    if first.shape != sizes.shape or bool(((first < 0) | (first >= sizes)).any()):
        raise ConfigError(
            "`start` is not a point of every cloud",
            expected="a row number within each cloud",
            got=str(first.tolist())[:80],
        )
    return first
