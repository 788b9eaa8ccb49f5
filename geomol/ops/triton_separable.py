"""Fused kernels of the separable convolution: one program owns a receiver (or an edge) and a tile of its values.

R_e = Σ_k r_ek W_k is a matrix product and left to the vendor's library; it has E × L × C values, lives for one call,
and is the largest array there is. Everything of the size E × O × C stays in registers. No atomics, so results repeat
bit for bit; sums are formed in float32, or in float64 for values in float64.

Import only where a kernel runs (`geomol.ops.backend.fused`): this needs Triton.
"""

# no `from __future__ import annotations`: Triton reads the annotations of a kernel; text it leaves alone
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geomol.ops.fused_cpu import NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT, NEED_X, NEED_Y
from geomol.ops.triton_jit import constexpr, jit, launch, tl, triton, warps_of

TILE = 1024  # values per program
_Pair = list[Any]


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
    IN_DOUBLE: constexpr,
    BLOCK_O: constexpr,
    BLOCK_C: constexpr,
) -> None:
    """out[row, o, c] = Σ over the edges of the row of x[index_e, o, c] Σ_l A[e, o, l] R[e, l, c]."""
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
    tl.store(out + row * num_ori * channels + place, total.to(out.dtype.element_ty), mask=both)


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
    num_ori: "Any",
    channels: "Any",
    DEGREES: constexpr,
    IN_DOUBLE: constexpr,
    BLOCK_O: constexpr,
    BLOCK_L: constexpr,
    BLOCK_C: constexpr,
) -> None:
    """Of each edge, with P = x[a_e] · y[b_e]: Σ_c P[o, c] R[l, c] and Σ_o A[o, l] P[o, c]."""
    edge = tl.program_id(0).to(tl.int64)
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
            line = (edge * DEGREES + degree) * channels + c
            at = tl.load(angular + (edge * num_ori + o) * DEGREES + degree, mask=o < num_ori, other=0.0).to(dtype)
            by = tl.load(mixed + line, mask=c < channels, other=0.0).to(dtype)
            down = tl.sum(product * at[:, None], axis=0)
            tl.store(by_mixed + line, down.to(by_mixed.dtype.element_ty), mask=c < channels)
            across = tl.sum(product * by[None, :], axis=1)
            by_cos += tl.where(degrees[None, :] == degree, across[:, None], 0.0)
    where = (edge * num_ori + o)[:, None] * DEGREES + degrees[None, :]
    inside = (o < num_ori)[:, None] & (degrees < DEGREES)[None, :]
    tl.store(by_angular + where, by_cos.to(by_angular.dtype.element_ty), mask=inside)


def _power(size: int) -> int:
    return int(triton.next_power_of_2(max(size, 1)))


def _project(x: Tensor, angular: Tensor, mixed: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    """Σ over the edges of each row of x[index_e] · (A_e R_e)."""
    num_ori, channels = x.shape[1:]
    out = x.new_empty(ptr.shape[0] - 1, num_ori, channels)
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
        IN_DOUBLE=x.dtype == torch.float64,
        BLOCK_O=block_o,
        BLOCK_C=block_c,
        warps=warps_of(block_o * block_c),
    )
    return out


def _dots(x: Tensor, y: Tensor, angular: Tensor, mixed: Tensor, pair: _Pair) -> tuple[Tensor, Tensor]:
    """Derivatives of Σ x[a] · y[b] · (A R) by A (E, O, L) and by R (E, L·C)."""
    num_ori, channels = x.shape[1:]
    by_angular, by_mixed = angular.new_empty(angular.shape), mixed.new_empty(mixed.shape)
    if by_angular.numel() == 0 or by_mixed.numel() == 0:
        return by_angular.zero_(), by_mixed.zero_()
    block_o = _power(num_ori)
    block_c = min(_power(channels), max(TILE // block_o, 16))
    launch(
        dots_kernel,
        (len(angular),),
        x.contiguous(),
        y.contiguous(),
        angular.contiguous(),
        mixed.contiguous(),
        pair[0].contiguous(),
        pair[3].contiguous(),
        by_angular,
        by_mixed,
        num_ori,
        channels,
        DEGREES=angular.shape[2],
        IN_DOUBLE=x.dtype == torch.float64,
        BLOCK_O=block_o,
        BLOCK_L=_power(angular.shape[2]),
        BLOCK_C=block_c,
        warps=warps_of(block_o * block_c),
    )
    return by_angular, by_mixed


def conv(
    x: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, a: Tensor, b_ptr: Tensor, b_perm: Tensor | None
) -> Tensor:
    """See `geomol.ops.fused`."""
    return _project(x, angular, radial @ weight.flatten(1), a, b_ptr, b_perm)


def grads(
    x: Tensor, y: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, pair: _Pair, need: int
) -> tuple[Tensor, ...]:
    """See `geomol.ops.fused`."""
    flat, none = weight.flatten(1), x.new_empty(0)
    mixed = radial @ flat
    by_x = _project(y, angular, mixed, pair[3], pair[1], pair[2]) if need & NEED_X else none
    if not need & ~NEED_X:
        return by_x, none, none, none
    by_angular, by_mixed = _dots(x, y, angular, mixed, pair)
    return (
        by_x,
        by_angular if need & NEED_ANGULAR else none,
        by_mixed @ flat.mT if need & NEED_RADIAL else none,
        (radial.mT @ by_mixed).view_as(weight) if need & NEED_WEIGHT else none,
    )


class _Term(NamedTuple):
    """x, A and R, one of them replaced by its tangent, and which."""

    x: Tensor
    angular: Tensor
    mixed: Tensor
    tangent: str


def grads_twice(
    tx: Tensor | None,
    t_angular: Tensor | None,
    t_radial: Tensor | None,
    t_weight: Tensor | None,
    x: Tensor,
    y: Tensor,
    angular: Tensor,
    radial: Tensor,
    weight: Tensor,
    pair: _Pair,
    need: int,
) -> tuple[Tensor, ...]:
    """See `geomol.ops.fused`; Σ over the places that a tangent can take, each with the kernels above."""
    flat = weight.flatten(1)
    mixed = radial @ flat
    t_flat = None if t_weight is None else t_weight.flatten(1)
    t_mixed = None if t_radial is None else t_radial @ flat
    if t_flat is not None:
        t_mixed = radial @ t_flat if t_mixed is None else t_mixed.addmm_(radial, t_flat)
    terms = [
        *([] if tx is None else [_Term(tx, angular, mixed, "x")]),
        *([] if t_angular is None else [_Term(x, t_angular, mixed, "A")]),
        *([] if t_mixed is None else [_Term(x, angular, t_mixed, "R")]),
    ]
    receive, send = (pair[0], pair[4], pair[5]), (pair[3], pair[1], pair[2])
    by_x, by_y = torch.zeros_like(x), torch.zeros_like(y)
    by_angular, by_mixed, by_t_mixed = torch.zeros_like(angular), torch.zeros_like(mixed), torch.zeros_like(mixed)
    for who, cos, mix, tangent in terms:
        if need & NEED_Y:
            by_y += _project(who, cos, mix, *receive)
        if need & NEED_X and tangent != "x":
            by_x += _project(y, cos, mix, *send)
        if need & (NEED_ANGULAR | NEED_RADIAL | NEED_WEIGHT):
            by_cos, by_mix = _dots(who, y, cos, mix, pair)
            if tangent != "A":
                by_angular += by_cos
            if tangent == "R":
                by_t_mixed += by_mix
            else:
                by_mixed += by_mix
    by_radial = by_mixed @ flat.mT
    by_weight = radial.mT @ by_mixed
    if t_flat is not None:
        by_radial += by_t_mixed @ t_flat.mT
    if t_radial is not None:
        by_weight += t_radial.mT @ by_t_mixed
    found = (by_x, by_y, by_angular, by_radial, by_weight.view_as(weight))
    flags = (NEED_X, NEED_Y, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT)
    return tuple(f if need & flag else x.new_empty(0) for f, flag in zip(found, flags, strict=True))
