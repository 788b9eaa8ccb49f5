"""Fused kernels of the separable convolution: one program owns a receiver (or an edge) and a tile of its values.

R_e = Σ_k r_ek W_k is a matrix product and left to the vendor's library; it has E × L × C values, lives for one call,
and is the largest array there is: derivatives by it, of the same size, exist for a block of edges at a time. Everything
of the size E × O × C stays in registers. No atomics, so results repeat bit for bit; sums are formed in float32, or in
float64 for values in float64.

Import only where a kernel runs (`geomol.ops.backend.fused`): this needs Triton.
"""

# no `from __future__ import annotations`: Triton reads the annotations of a kernel; text it leaves alone
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geomol.ops.fused_cpu import NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT, NEED_X
from geomol.ops.triton_jit import constexpr, jit, launch, tl, triton, warps_of

TILE = 1024  # values per program
BLOCK_BYTES = 32 << 20  # of the derivative by R: it fits the cache of an H100 (50 MB), and launches stay few
Pair = list[Any]


@jit
def conv_kernel(
    x: "Any",
    angular: "Any",
    mixed: "Any",
    index: "Any",
    ptr: "Any",
    perm: "Any",
    out: "Any",
    num_ori: "Any",
    channels: "Any",
    DEGREES: constexpr,
    HAS_PERM: constexpr,
    ADD: constexpr,
    IN_DOUBLE: constexpr,
    BLOCK_O: constexpr,
    BLOCK_C: constexpr,
) -> None:
    """out[row, o, c] = Σ over the edges of the row of x[index_e, o, c] Σ_l A[e, o, l] R[e, l, c], += with ADD."""
    row = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    both = (o < num_ori)[:, None] & (c < channels)[None, :]
    place = o[:, None] * channels + c[None, :]
    total = tl.zeros((BLOCK_O, BLOCK_C), dtype=tl.float64 if IN_DOUBLE else tl.float32)
    for listed in range(tl.load(ptr + row), tl.load(ptr + row + 1)):
        edge = listed  # int64, as `ptr` is
        if HAS_PERM:
            edge = tl.load(perm + listed)
        node = tl.load(index + edge)
        kernel = tl.zeros((BLOCK_O, BLOCK_C), dtype=total.dtype)
        for degree in tl.static_range(DEGREES):
            at = tl.load(angular + (edge * num_ori + o) * DEGREES + degree, mask=o < num_ori, other=0.0)
            by = tl.load(mixed + (edge * DEGREES + degree) * channels + c, mask=c < channels, other=0.0)
            kernel += at.to(total.dtype)[:, None] * by.to(total.dtype)[None, :]
        total += kernel * tl.load(x + node * num_ori * channels + place, mask=both, other=0.0).to(total.dtype)
    to = out + row * num_ori * channels + place
    if ADD:
        total += tl.load(to, mask=both, other=0.0).to(total.dtype)
    tl.store(to, total.to(out.dtype.element_ty), mask=both)


@jit
def dots_kernel(
    x: "Any",
    y: "Any",
    angular: "Any",
    mixed: "Any",
    a: "Any",
    b: "Any",
    by_angular: "Any",
    by_mixed: "Any",
    first: "Any",
    num_ori: "Any",
    channels: "Any",
    DEGREES: constexpr,
    BY_ANGULAR: constexpr,
    BY_MIXED: constexpr,
    ADD_ANGULAR: constexpr,
    ADD_MIXED: constexpr,
    IN_DOUBLE: constexpr,
    BLOCK_O: constexpr,
    BLOCK_L: constexpr,
    BLOCK_C: constexpr,
) -> None:
    """Of each edge from `first` on, with P = x[a_e] · y[b_e]: Σ_c P[o, c] R[l, c] and Σ_o A[o, l] P[o, c].

    Either is left out, stored or added; the second to the rows of a block that begins at `first`.
    """
    listed = tl.program_id(0).to(tl.int64)
    edge = first + listed
    o, degrees = tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_L)
    dtype = tl.float64 if IN_DOUBLE else tl.float32
    from_x = x + tl.load(a + edge) * num_ori * channels
    from_y = y + tl.load(b + edge) * num_ori * channels
    by_cos = tl.zeros((BLOCK_O, BLOCK_L), dtype=dtype)
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        both = (o < num_ori)[:, None] & (c < channels)[None, :]
        place = o[:, None] * channels + c[None, :]
        product = tl.load(from_x + place, mask=both, other=0.0).to(dtype)
        product *= tl.load(from_y + place, mask=both, other=0.0).to(dtype)
        for degree in tl.static_range(DEGREES):
            if BY_MIXED:
                at = tl.load(angular + (edge * num_ori + o) * DEGREES + degree, mask=o < num_ori, other=0.0).to(dtype)
                down = tl.sum(product * at[:, None], axis=0)
                to = by_mixed + (listed * DEGREES + degree) * channels + c
                if ADD_MIXED:
                    down += tl.load(to, mask=c < channels, other=0.0).to(dtype)
                tl.store(to, down.to(by_mixed.dtype.element_ty), mask=c < channels)
            if BY_ANGULAR:
                by = tl.load(mixed + (edge * DEGREES + degree) * channels + c, mask=c < channels, other=0.0).to(dtype)
                across = tl.sum(product * by[None, :], axis=1)
                by_cos += tl.where(degrees[None, :] == degree, across[:, None], 0.0)
    if BY_ANGULAR:
        where = by_angular + (edge * num_ori + o)[:, None] * DEGREES + degrees[None, :]
        inside = (o < num_ori)[:, None] & (degrees < DEGREES)[None, :]
        if ADD_ANGULAR:
            by_cos += tl.load(where, mask=inside, other=0.0).to(dtype)
        tl.store(where, by_cos.to(by_angular.dtype.element_ty), mask=inside)


def _power(size: int) -> int:
    return int(triton.next_power_of_2(max(size, 1)))


def project(
    x: Tensor, angular: Tensor, mixed: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None, to: Tensor | None = None
) -> Tensor:
    """Σ over the edges of each row of x[index_e] · (A_e R_e), added to `to` where that is given."""
    num_ori, channels = x.shape[1:]
    out = x.new_empty(ptr.shape[0] - 1, num_ori, channels) if to is None else to
    if out.numel() == 0:
        return out
    block_c = min(_power(channels), 64)
    block_o = min(_power(num_ori), TILE // block_c)
    launch(
        conv_kernel,
        (out.shape[0], triton.cdiv(num_ori, block_o), triton.cdiv(channels, block_c)),
        x.contiguous(),
        angular.contiguous(),
        mixed.contiguous(),
        index.contiguous(),
        ptr.contiguous(),
        ptr if perm is None else perm.contiguous(),
        out,
        num_ori,
        channels,
        DEGREES=angular.shape[2],
        HAS_PERM=perm is not None,
        ADD=to is not None,
        IN_DOUBLE=x.dtype == torch.float64,
        BLOCK_O=block_o,
        BLOCK_C=block_c,
        warps=warps_of(block_o * block_c),
    )
    return out


def _dots(
    x: Tensor,
    y: Tensor,
    angular: Tensor,
    mixed: Tensor,
    pair: Pair,
    edges: range,
    by_angular: Tensor | None,
    by_mixed: Tensor | None,
    *,
    add_angular: bool,
    add_mixed: bool,
) -> None:
    """Derivatives of Σ x[a] · y[b] · (A R), for these edges, by A (E, O, L) and by R (len(edges), L·C)."""
    if by_angular is None and by_mixed is None:
        return
    num_ori, channels = x.shape[1:]
    if 0 in (len(edges), channels, *angular.shape):
        for by, add in ((by_angular, add_angular), (by_mixed, add_mixed)):
            if by is not None and not add:
                by.zero_()
        return
    block_o = _power(num_ori)
    block_c = min(_power(channels), max(TILE // block_o, 16))
    launch(
        dots_kernel,
        (len(edges),),
        x.contiguous(),
        y.contiguous(),
        angular.contiguous(),
        mixed.contiguous(),
        pair[0].contiguous(),
        pair[3].contiguous(),
        mixed if by_angular is None else by_angular,
        mixed if by_mixed is None else by_mixed,
        edges.start,
        num_ori,
        channels,
        DEGREES=angular.shape[2],
        BY_ANGULAR=by_angular is not None,
        BY_MIXED=by_mixed is not None,
        ADD_ANGULAR=add_angular,
        ADD_MIXED=add_mixed,
        IN_DOUBLE=x.dtype == torch.float64,
        BLOCK_O=block_o,
        BLOCK_L=_power(angular.shape[2]),
        BLOCK_C=block_c,
        warps=warps_of(block_o * block_c),
    )


class Term(NamedTuple):
    """x and A of a sum Σ x[a] · y[b] · (A R), and whether it is to be differentiated by that A."""

    x: Tensor
    angular: Tensor
    by_angular: bool = True


class By(NamedTuple):
    """Where derivatives by A, r and W (K, L·C) go, None where they are not asked for; and whether they are added."""

    angular: Tensor | None
    radial: Tensor | None
    weight: Tensor | None
    add: bool


def to_factors(
    terms: Sequence[Term],
    y: Tensor,
    mixed: Tensor,
    radial: Tensor | None,
    flat: Tensor | None,
    pair: Pair,
    by: By,
) -> None:
    """Derivatives of a sum of terms by A, and through R = r W by r (which takes W) and by W (which takes r)."""
    num_edges, width = mixed.shape
    size = max(BLOCK_BYTES // max(width * mixed.itemsize, 1), 1)
    if mixed.itemsize < 4:  # in half precision the sum over blocks would be rounded block by block
        size = max(num_edges, 1)
    buffer = None if by.radial is None and by.weight is None else mixed.new_empty(min(size, num_edges), width)
    for first in range(0, max(num_edges, 1), size):
        edges = range(first, min(first + size, num_edges))
        block = slice(first, edges.stop)
        by_mixed = None if buffer is None else buffer[: len(edges)]
        for number, (x, angular, by_angular) in enumerate(terms):
            to_angular = by.angular if by_angular else None
            _dots(x, y, angular, mixed, pair, edges, to_angular, by_mixed, add_angular=by.add, add_mixed=number > 0)
        if by.radial is not None:
            assert flat is not None
            assert by_mixed is not None
            by.radial[block].addmm_(by_mixed, flat.mT, beta=int(by.add))
        if by.weight is not None:
            assert radial is not None
            assert by_mixed is not None
            by.weight.addmm_(radial[block].mT, by_mixed, beta=int(by.add or first > 0))


def conv(
    x: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, a: Tensor, b_ptr: Tensor, b_perm: Tensor | None
) -> Tensor:
    """See `geomol.ops.fused`."""
    return project(x, angular, radial @ weight.flatten(1), a, b_ptr, b_perm)


def grads(
    x: Tensor, y: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, pair: Pair, need: int
) -> tuple[Tensor, ...]:
    """See `geomol.ops.fused`."""
    flat, none = weight.flatten(1), x.new_empty(0)
    x, y, mixed = x.contiguous(), y.contiguous(), radial @ flat
    by_x = project(y, angular, mixed, pair[3], pair[1], pair[2]) if need & NEED_X else none
    by_angular = angular.new_empty(angular.shape) if need & NEED_ANGULAR else None
    by_radial = radial.new_empty(radial.shape) if need & NEED_RADIAL else None
    by_weight = flat.new_empty(flat.shape) if need & NEED_WEIGHT else None
    if need & ~NEED_X:
        to_factors([Term(x, angular)], y, mixed, radial, flat, pair, By(by_angular, by_radial, by_weight, add=False))
    return (
        by_x,
        none if by_angular is None else by_angular,
        none if by_radial is None else by_radial,
        none if by_weight is None else by_weight.view_as(weight),
    )
