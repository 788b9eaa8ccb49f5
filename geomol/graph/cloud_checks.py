"""What a batch of point clouds must satisfy before anything is sought in it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError, InputError

MAX_COORDINATE = 1e100  # its square is still a number


def check_clouds(pos: Tensor, ptr: Tensor, *, least: int = 1, what: str = "cloud") -> None:
    """Positions (N, 3), all numbers; `ptr` ascending from 0 to N, with at least `least` points in each cloud.

    Raises:
        InputError: naming the cloud or the point.
    """
    if pos.ndim != 2 or pos.shape[1] != 3 or not pos.is_floating_point():
        raise InputError(
            "points have a wrong shape or type", expected="(N, 3) of floats", got=f"{tuple(pos.shape)} {pos.dtype}"
        )
    if ptr.ndim != 1 or ptr.dtype != torch.int64 or len(ptr) == 0 or int(ptr[0]) != 0 or int(ptr[-1]) != len(pos):
        raise InputError(
            "`ptr` are no row pointers of the points",
            expected=f"int64 from 0 to {len(pos)}",
            got=f"{ptr.dtype} {ptr.tolist()[:1]} to {ptr.tolist()[-1:]}",
        )
    sizes = ptr.diff()
    if bool((sizes < least).any()):
        row = int((sizes < least).nonzero()[0])
        size = int(sizes[row])
        fault = "is empty" if size == 0 else f"has {size} points" if size != 1 else "has one point"
        raise InputError(f"{what} {row} {fault}", expected=f"at least {least} point{'s' if least > 1 else ''}")
    good = pos.abs() <= MAX_COORDINATE  # False for NaN
    if not bool(good.all()):
        point = int((~good).any(1).nonzero()[0])
        row = int(torch.searchsorted(ptr, point, right=True)) - 1
        raise InputError(
            f"point {point - int(ptr[row])} of {what} {row} is not finite", got=str(pos[point].detach().tolist())
        )


def check_pair_of_sets(
    pos: Float[Tensor, "M 3"],
    ptr: Int[Tensor, " P"],
    queries: Float[Tensor, "K 3"] | None,
    queries_ptr: Int[Tensor, " Q"] | None,
) -> tuple[Float[Tensor, "R 3"], Int[Tensor, " Q"]]:
    """Both sets checked; the queries are the points themselves where none are given.

    Raises:
        InputError: as `check_clouds`, or sets of unequally many clouds.
        ConfigError: queries without their pointers.
    """
    check_clouds(pos, ptr)
    if (queries is None) != (queries_ptr is None):
        raise ConfigError("`queries` and `queries_ptr` belong together", expected="both or neither")
    if queries is None or queries_ptr is None:
        return pos, ptr
    check_clouds(queries, queries_ptr, least=0, what="set of queries")
    if len(queries_ptr) != len(ptr):
        raise InputError(
            "points and queries are of unequally many clouds", expected=str(len(ptr) - 1), got=str(len(queries_ptr) - 1)
        )
    if queries.device != pos.device:
        raise ConfigError("points and queries are on different devices", got=f"{pos.device} and {queries.device}")
    return queries, queries_ptr


def check_count(k: object, what: str) -> int:
    """A positive whole number.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ConfigError(f"{what} is not a count", expected="1 or more", got=repr(k))
    return k
