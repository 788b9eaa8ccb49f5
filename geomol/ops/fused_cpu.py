"""The separable convolution on a CPU where C does not take it (`geomol.ops.fused_native`): blocks of edges small enough
for the cache, in buffers that are used again.

For an edge e from node a to row b: angular values A_e (O, L), radial values r_e (K,), weights W (K, L, C),
mixed R_e = Σ_k r_ek W_k (L, C), kernel κ_e = A_e R_e (O, C). R and κ exist for one block of edges at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geomol.ops.blocks import Scratch, block_size

NEED_X, NEED_Y, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT = 1, 2, 4, 8, 16


def conv(x: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, a: Tensor, b: Tensor, num_rows: int) -> Tensor:
    """out_i = Σ_{e into i} x[a_e] · κ_e."""
    num_ori, channels = x.shape[1:]
    degrees = weight.shape[1]
    flat, nodes = weight.flatten(1), x.contiguous().flatten(1)
    out = torch.zeros_like(nodes) if num_rows == x.shape[0] else nodes.new_zeros(num_rows, nodes.shape[1])
    size = block_size(nodes.shape[1], x.dtype)
    scratch = Scratch(nodes, size)
    for first in range(0, len(a), size):
        block = slice(first, first + size)
        cos, send = angular[block], a[block]
        rows = len(send)
        mixed = torch.mm(radial[block], flat, out=scratch("mixed", rows, flat.shape[1])).view(-1, degrees, channels)
        kernel = torch.bmm(cos, mixed, out=scratch("kernel", rows, num_ori, channels))
        sent = torch.index_select(nodes, 0, send, out=scratch("sent", rows, nodes.shape[1]))
        out.index_add_(0, b[block], sent.mul_(kernel.flatten(1)))
    return out.view(num_rows, num_ori, channels)


def grads(
    x: Tensor, y: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, a: Tensor, b: Tensor, need: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of Σ_e Σ x[a_e] · y[b_e] · κ_e by x, A, r and W, as far as `need` asks; empty where it does not."""
    num_ori, channels = x.shape[1:]
    degrees = weight.shape[1]
    flat, nodes, there = weight.flatten(1), x.contiguous().flatten(1), y.contiguous().flatten(1)
    by_x = torch.zeros_like(nodes) if need & NEED_X else x.new_empty(0)
    by_angular = torch.empty_like(angular) if need & NEED_ANGULAR else x.new_empty(0)
    by_radial = torch.empty_like(radial) if need & NEED_RADIAL else x.new_empty(0)
    by_weight = torch.zeros_like(flat) if need & NEED_WEIGHT else x.new_empty(0)
    size = block_size(nodes.shape[1], x.dtype)
    scratch = Scratch(nodes, size)
    for first in range(0, len(a), size):
        block = slice(first, first + size)
        cos, rad, send = angular[block], radial[block], a[block]
        rows = len(send)
        received = torch.index_select(there, 0, b[block], out=scratch("received", rows, nodes.shape[1]))
        mixed = torch.mm(rad, flat, out=scratch("mixed", rows, flat.shape[1])).view(-1, degrees, channels)
        if need & NEED_X:
            kernel = torch.bmm(cos, mixed, out=scratch("kernel", rows, num_ori, channels))
            by_x.index_add_(0, send, kernel.flatten(1).mul_(received))
        if not need & ~NEED_X:
            continue
        sent = torch.index_select(nodes, 0, send, out=scratch("sent", rows, nodes.shape[1]))
        product = sent.mul_(received).view(-1, num_ori, channels)
        if need & NEED_ANGULAR:
            torch.bmm(product, mixed.mT, out=by_angular[block])
        if need & (NEED_RADIAL | NEED_WEIGHT):
            by_mixed = torch.bmm(cos.mT, product, out=scratch("by_mixed", rows, degrees, channels)).flatten(1)
            if need & NEED_RADIAL:
                torch.mm(by_mixed, flat.mT, out=by_radial[block])
            if need & NEED_WEIGHT:
                by_weight.addmm_(rad.mT, by_mixed)
    return (
        by_x.view_as(x) if need & NEED_X else by_x,
        by_angular,
        by_radial,
        by_weight.view_as(weight) if need & NEED_WEIGHT else by_weight,
    )
