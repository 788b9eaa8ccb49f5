"""Fused kernels of `geomol::reduce`, `geomol::conv` and `geomol::edge_dot`.

One program owns one row (a receiver) and a block of its values, reads the edges of the row in their order, and writes
once: no atomics, so results repeat bit for bit, and no array over edges is stored by a convolution. Sums are formed in
float32, or in float64 for values in float64.

Import only where a kernel runs (`geomol.ops.backend.fused`): this needs Triton.
"""

# no `from __future__ import annotations`: Triton reads the annotations of a kernel; text it leaves alone
import math
from typing import Any

import torch
from torch import Tensor

from geomol.ops.triton_jit import constexpr, jit, launch, tl, triton, warps_of

MAX_BLOCK = 256  # values of one edge that a program holds
TILE = 1024  # values that a program holds at once: several edges where they are short
LONG_ROW = 1024  # edges; programs of rows this long on average hold more of them at once
LONG_TILE = 4096


@jit
def row_kernel(
    x: "Any",
    w: "Any",
    index: "Any",
    ptr: "Any",
    perm: "Any",
    out: "Any",
    num_values: "Any",
    width: "Any",
    stride_edge: "Any",
    stride_outer: "Any",
    stride_inner: "Any",
    HAS_X: constexpr,
    HAS_PERM: constexpr,
    IN_DOUBLE: constexpr,
    BLOCK_E: constexpr,
    BLOCK_F: constexpr,
) -> None:
    """out[row] = Σ over the edges of the row of w_e, times x[index_e] with HAS_X."""
    row = tl.program_id(0).to(tl.int64)
    values = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = values < num_values
    in_w = (values // width).to(tl.int64) * stride_outer + (values % width).to(tl.int64) * stride_inner
    total = tl.zeros((BLOCK_E, BLOCK_F), dtype=tl.float64 if IN_DOUBLE else tl.float32)
    first = tl.load(ptr + row)
    last = tl.load(ptr + row + 1)
    for start in range(first, last, BLOCK_E):
        place = start + tl.arange(0, BLOCK_E)
        listed = place < last
        edge = place.to(tl.int64)
        if HAS_PERM:
            edge = tl.load(perm + place, mask=listed, other=0)
        both = listed[:, None] & inside[None, :]
        term = tl.load(w + edge[:, None] * stride_edge + in_w[None, :], mask=both, other=0.0).to(total.dtype)
        if HAS_X:
            node = tl.load(index + edge, mask=listed, other=0)
            term *= tl.load(x + node[:, None] * num_values + values[None, :], mask=both, other=0.0).to(total.dtype)
        total += term
    found = tl.sum(total, axis=0)
    tl.store(out + row * num_values + values, found.to(out.dtype.element_ty), mask=inside)


@jit
def edge_dot_kernel(
    x: "Any",
    y: "Any",
    a: "Any",
    b: "Any",
    out: "Any",
    num_edges: "Any",
    num_values: "Any",
    IN_DOUBLE: constexpr,
    BLOCK_E: constexpr,
    BLOCK_F: constexpr,
) -> None:
    """out[e] = x[a_e] · y[b_e]."""
    edge = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    values = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    both = (edge < num_edges)[:, None] & (values < num_values)[None, :]
    from_x = tl.load(a + edge, mask=edge < num_edges, other=0)[:, None] * num_values + values[None, :]
    from_y = tl.load(b + edge, mask=edge < num_edges, other=0)[:, None] * num_values + values[None, :]
    dtype = tl.float64 if IN_DOUBLE else tl.float32
    product = tl.load(x + from_x, mask=both, other=0.0).to(dtype) * tl.load(y + from_y, mask=both, other=0.0).to(dtype)
    tl.store(out + edge[:, None] * num_values + values[None, :], product.to(out.dtype.element_ty), mask=both)


def _tile(num_values: int, mean_row: int = 0) -> tuple[int, int]:
    """Edges and values that a program holds."""
    block = min(int(triton.next_power_of_2(max(num_values, 1))), MAX_BLOCK)
    return LONG_TILE // block if mean_row >= LONG_ROW else max(1, min(TILE // block, 16)), block


def _strides(w: Tensor, shape: torch.Size) -> tuple[Tensor, int, int, int, int]:
    """`w` as (E, outer, inner) with its strides, shared axes kept as steps of 0; (w, inner, strides)."""
    if w.dim() == 1:
        return w, 1, w.stride(0), 0, 0
    inner, rest = shape[-1], w.shape[1:-1]
    outer = math.prod(rest)
    try:
        w = w.view(w.shape[0], outer, inner)
    except RuntimeError:  # axes that cannot be walked in one step
        w = w.reshape(w.shape[0], outer, inner)
    return w, max(inner, 1), w.stride(0), w.stride(1), w.stride(2)


def _rows(x: Tensor | None, w: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    shape = w.shape[1:]
    out = (w if x is None else x).new_empty(ptr.shape[0] - 1, *shape)
    num_values = math.prod(shape)
    if out.numel() == 0:
        return out
    w, width, *strides = _strides(w, shape)
    num_edges = w.shape[0] if perm is None else perm.shape[0]
    block_edges, block = _tile(num_values, num_edges // out.shape[0])
    launch(
        row_kernel,
        (out.shape[0], triton.cdiv(num_values, block)),
        w if x is None else x.contiguous(),
        w,
        index.contiguous(),
        ptr.contiguous(),
        ptr if perm is None else perm.contiguous(),
        out,
        num_values,
        width,
        *strides,
        HAS_X=x is not None,
        HAS_PERM=perm is not None,
        IN_DOUBLE=out.dtype == torch.float64,
        BLOCK_E=block_edges,
        BLOCK_F=block,
        warps=max(warps_of(block_edges * block), 4),
    )
    return out


def reduce(values: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    """Sum of the values of each row."""
    return _rows(None, values, ptr, ptr, perm)


def conv(x: Tensor, w: Tensor, a: Tensor, b_ptr: Tensor, b_perm: Tensor | None) -> Tensor:
    """out_i = Σ over the edges e of row i of x[a_e] · w_e; `w` has the trailing shape of `x`, by strides of 0 if so."""
    return _rows(x, w, a, b_ptr, b_perm)


def edge_dot(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out_e = x[a_e] · y[b_e]."""
    out = x.new_empty(a.shape[0], *x.shape[1:])
    num_values = math.prod(x.shape[1:])
    if out.numel() == 0:
        return out
    block_edges, block = _tile(num_values)
    launch(
        edge_dot_kernel,
        (triton.cdiv(a.shape[0], block_edges), triton.cdiv(num_values, block)),
        x.contiguous(),
        y.contiguous(),
        a.contiguous(),
        b.contiguous(),
        out,
        a.shape[0],
        num_values,
        IN_DOUBLE=out.dtype == torch.float64,
        BLOCK_E=block_edges,
        BLOCK_F=block,
        warps=4,
    )
    return out
