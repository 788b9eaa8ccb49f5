"""The verbs of message passing on receiver-sorted edges. All are differentiable twice and deterministic."""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

# importing the module registers the operators
from geomol.ops import kernels  # noqa: F401
from geomol.ops.forward_mode import refuse_tangents

_ops = torch.ops.geomol


class Edges(Protocol):
    """Pairs sorted by receiver, with the transposed order: a `Graph`, or anything of this shape."""

    @property
    def src(self) -> Tensor: ...
    @property
    def dst(self) -> Tensor: ...
    @property
    def edge_ptr(self) -> Tensor: ...
    @property
    def send_perm(self) -> Tensor: ...
    @property
    def send_ptr(self) -> Tensor: ...


def _gather(x: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    # on a CPU PyTorch's own indexing is deterministic and closed under differentiation too, and costs less per call
    if not x.is_cuda:
        return x.index_select(0, index)
    refuse_tangents(x)
    out: Tensor = _ops.gather(x, index, ptr, perm)
    return out


def gather_senders(x: Float[Tensor, "N *F"], edges: Edges) -> Float[Tensor, "E *F"]:
    """x[src]: the value of the sender of each edge."""
    return _gather(x, edges.src, edges.send_ptr, edges.send_perm)


def gather_receivers(x: Float[Tensor, "M *F"], edges: Edges) -> Float[Tensor, "E *F"]:
    """x[dst]: the value of the receiver of each edge."""
    return _gather(x, edges.dst, edges.edge_ptr, None)


def gather_segments(
    x: Float[Tensor, "G *F"], index: Int[Tensor, " N"], ptr: Int[Tensor, " P"]
) -> Float[Tensor, "N *F"]:
    """x[index] where `index` is the segment of each of consecutive values, and `ptr` their bounds.

    On a GPU the derivative of plain indexing adds in no fixed order, or one value after the other.
    """
    return _gather(x, index, ptr, None)


def sum_to_receivers(values: Float[Tensor, "E *F"], edges: Edges) -> Float[Tensor, "N *F"]:
    """Sum over the edges into each node."""
    if values.is_cuda:
        refuse_tangents(values)
        out: Tensor = _ops.reduce(values, edges.dst, edges.edge_ptr, None)
        return out
    return values.new_zeros(edges.edge_ptr.shape[0] - 1, *values.shape[1:]).index_add(0, edges.dst, values)


def conv(x: Float[Tensor, "N *F"], w: Float[Tensor, "E *W"], edges: Edges) -> Float[Tensor, "M *F"]:
    """Depth-wise graph convolution, out_i = Σ_{e into i} x[src_e] · w_e, without storing the messages.

    `w` has the trailing shape of `x`, or 1 where it is shared along an axis.
    """
    w = w.expand(-1, *x.shape[1:])
    refuse_tangents(x, w)
    out: Tensor = _ops.conv(x, w, edges.src, edges.send_ptr, edges.send_perm, edges.dst, edges.edge_ptr, None)
    return out


def one_dtype(*factors: Tensor) -> tuple[Tensor, ...]:
    """Factors of one product in the widest of their types: under autocast they may differ."""
    dtype = functools.reduce(torch.promote_types, (factor.dtype for factor in factors))
    return tuple(factor.to(dtype) for factor in factors)


def edge_dot(x: Float[Tensor, "N *F"], y: Float[Tensor, "M *F"], edges: Edges) -> Float[Tensor, "E *F"]:
    """Product of sender and receiver values per edge, out_e = x[src_e] · y[dst_e]: the derivative of `conv` by w."""
    refuse_tangents(x, y)
    out: Tensor = _ops.edge_dot(x, y, edges.src, edges.send_ptr, edges.send_perm, edges.dst, edges.edge_ptr, None)
    return out
