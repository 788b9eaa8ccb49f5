"""The derivative of the derivatives of the separable convolution, on a CPU, in one pass over blocks of edges.

With tangents (a dot) of x, A, r and W, κ̇ = Ȧ R + A Ṙ and Ṙ = ṙ W + r Ẇ, the product of the tangents with the
derivatives of T = Σ x·y·κ is S = Σ ẋ·y·κ + x·y·κ̇. These are the derivatives of S.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geomol.ops.blocks import Scratch, block_size
from geomol.ops.fused_cpu import NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT, NEED_X, NEED_Y

_FACTORS = NEED_ANGULAR | NEED_RADIAL | NEED_WEIGHT


@dataclass(frozen=True, eq=False)
class _Place:
    """A point (x, A, r, W) or a tangent there, as flat arrays; None is zero."""

    nodes: Tensor | None
    cos: Tensor | None
    rad: Tensor | None
    flat: Tensor | None


@dataclass(frozen=True, eq=False)
class _Block:
    """What a pass forms of one block of edges: gathered values (n, O·C), and R and Ṙ (n, L, C)."""

    edges: slice
    send: Tensor
    receive: Tensor
    sent: Tensor
    received: Tensor
    mixed: Tensor
    sent_dot: Tensor | None
    mixed_dot: Tensor | None


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
    a: Tensor,
    b: Tensor,
    need: int,
) -> tuple[Tensor, ...]:
    """Derivatives of S by x, y, A, r and W as far as `need` asks, empty where it does not; a tangent None is zero."""
    point = _Place(x.flatten(1), angular, radial, weight.flatten(1))
    dot = _Place(
        None if tx is None else tx.flatten(1), t_angular, t_radial, None if t_weight is None else t_weight.flatten(1)
    )
    flags = (NEED_X, NEED_Y, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT)
    by = [
        torch.zeros_like(t) if need & flag else t.new_empty(0)
        for t, flag in zip((x, y, angular, radial, weight), flags, strict=True)
    ]
    there = y.flatten(1)
    size = block_size(there.shape[1], x.dtype)
    scratch = Scratch(there, size)
    for first in range(0, len(a), size):
        block = _read(slice(first, first + size), point, dot, there, (a, b), scratch, weight.shape[1:])
        _add_to_nodes(block, point, dot, by, need, scratch)
        if need & _FACTORS:
            _add_to_factors(block, point, dot, by, need, scratch)
    return tuple(by)


def _read(
    edges: slice,
    point: _Place,
    dot: _Place,
    there: Tensor,
    pair: tuple[Tensor, Tensor],
    scratch: Scratch,
    shape: torch.Size,
) -> _Block:
    assert point.nodes is not None
    assert point.rad is not None
    assert point.flat is not None
    send, receive, rad = pair[0][edges], pair[1][edges], point.rad[edges]
    rows, wide = len(send), there.shape[1]
    mixed = torch.mm(rad, point.flat, out=scratch("mixed", rows, point.flat.shape[1]))
    mixed_dot = None
    if dot.rad is not None:
        mixed_dot = torch.mm(dot.rad[edges], point.flat, out=scratch("mixed_dot", rows, mixed.shape[1]))
    if dot.flat is not None:
        out = scratch("mixed_dot", rows, mixed.shape[1])
        mixed_dot = torch.mm(rad, dot.flat, out=out) if mixed_dot is None else mixed_dot.addmm_(rad, dot.flat)
    return _Block(
        edges,
        send,
        receive,
        torch.index_select(point.nodes, 0, send, out=scratch("sent", rows, wide)),
        torch.index_select(there, 0, receive, out=scratch("received", rows, wide)),
        mixed.view(-1, *shape),
        None if dot.nodes is None else torch.index_select(dot.nodes, 0, send, out=scratch("sent_dot", rows, wide)),
        None if mixed_dot is None else mixed_dot.view(-1, *shape),
    )


def _add_to_nodes(block: _Block, point: _Place, dot: _Place, by: list[Tensor], need: int, scratch: Scratch) -> None:
    """∂S/∂y = ẋ κ + x κ̇ at the receivers, ∂S/∂x = y κ̇ at the senders."""
    assert point.cos is not None
    cos, rows, wide = point.cos[block.edges], len(block.send), block.sent.shape[1]
    kernel = scratch("kernel", rows, cos.shape[1], block.mixed.shape[2])
    if need & NEED_Y and block.sent_dot is not None:
        torch.bmm(cos, block.mixed, out=kernel)
        by[1].flatten(1).index_add_(0, block.receive, kernel.flatten(1).mul_(block.sent_dot))
    if not need & (NEED_X | NEED_Y) or (dot.cos is None and block.mixed_dot is None):
        return
    if dot.cos is not None:
        torch.bmm(dot.cos[block.edges], block.mixed, out=kernel)
        if block.mixed_dot is not None:
            kernel.baddbmm_(cos, block.mixed_dot)
    elif block.mixed_dot is not None:
        torch.bmm(cos, block.mixed_dot, out=kernel)
    flat = kernel.flatten(1)
    if need & NEED_Y:
        product = torch.mul(flat, block.sent, out=scratch("product", rows, wide))
        by[1].flatten(1).index_add_(0, block.receive, product)
    if need & NEED_X:
        by[0].flatten(1).index_add_(0, block.send, flat.mul_(block.received))


def _add_to_factors(block: _Block, point: _Place, dot: _Place, by: list[Tensor], need: int, scratch: Scratch) -> None:
    """∂S/∂A, and through ∂S/∂R and ∂S/∂Ṙ those by r and W. Gathered values are overwritten."""
    assert point.cos is not None
    assert point.rad is not None
    assert point.flat is not None
    cos, rad = point.cos[block.edges], point.rad[block.edges]
    shape = (len(block.send), cos.shape[1], block.mixed.shape[2])
    product = block.sent.mul_(block.received).view(shape)
    product_dot = None if block.sent_dot is None else block.sent_dot.mul_(block.received).view(shape)
    if need & NEED_ANGULAR:
        by_cos = by[2][block.edges]
        if block.mixed_dot is not None:
            torch.bmm(product, block.mixed_dot.mT, out=by_cos)
        if product_dot is not None:
            by_cos.baddbmm_(product_dot, block.mixed.mT)
    if not need & (NEED_RADIAL | NEED_WEIGHT):
        return
    by_mixed = scratch("by_mixed", *block.mixed.shape)
    by_mixed = by_mixed.zero_() if product_dot is None else torch.bmm(cos.mT, product_dot, out=by_mixed)
    if dot.cos is not None:
        by_mixed.baddbmm_(dot.cos[block.edges].mT, product)
    by_dot = torch.bmm(cos.mT, product, out=scratch("by_mixed_dot", *block.mixed.shape)).flatten(1)
    if need & NEED_RADIAL:
        by_rad = torch.mm(by_mixed.flatten(1), point.flat.mT, out=by[3][block.edges])
        if dot.flat is not None:
            by_rad.addmm_(by_dot, dot.flat.mT)
    if need & NEED_WEIGHT:
        by_weight = by[4].flatten(1).addmm_(rad.mT, by_mixed.flatten(1))
        if dot.rad is not None:
            by_weight.addmm_(dot.rad[block.edges].mT, by_dot)
