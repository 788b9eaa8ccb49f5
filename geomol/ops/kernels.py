"""Two pairs of operators, each closed under differentiation, registered with PyTorch.

    gather   x[index]                                     derivative: reduce
    reduce   sum of the values of each row                derivative: gather
    conv     out_i = Σ_{e into i} x[a_e] · w_e            derivatives: conv (transposed), edge_dot
    edge_dot out_e = x[a_e] · y[b_e]                      derivatives: conv, conv

Because the derivative of each is written with the others, energies, forces, training on forces and Hessian-vector
products of any depth-wise convolution run on these four alone. An index comes as a triple (index, ptr, perm): the row
of each edge, the row pointers, and the order that sorts the edges by row (None when they are sorted).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geomol.ops.backend import fused, use_triton
from geomol.ops.rows import row_sum

torch.library.define("geomol::gather", "(Tensor x, Tensor index, Tensor ptr, Tensor? perm) -> Tensor")
torch.library.define("geomol::reduce", "(Tensor values, Tensor index, Tensor ptr, Tensor? perm) -> Tensor")
_PAIR = "Tensor a, Tensor a_ptr, Tensor? a_perm, Tensor b, Tensor b_ptr, Tensor? b_perm"
torch.library.define("geomol::conv", f"(Tensor x, Tensor w, {_PAIR}) -> Tensor")
torch.library.define("geomol::edge_dot", f"(Tensor x, Tensor y, {_PAIR}) -> Tensor")

_ops = torch.ops.geomol


@torch.library.impl("geomol::gather", "default")
def _gather(x: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    return x.index_select(0, index)


@torch.library.impl("geomol::reduce", "default")
def _reduce(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    return row_sum(values, index, ptr, perm)


@torch.library.impl("geomol::conv", "default")
def _conv(
    x: Tensor,
    w: Tensor,
    a: Tensor,
    a_ptr: Tensor,
    a_perm: Tensor | None,
    b: Tensor,
    b_ptr: Tensor,
    b_perm: Tensor | None,
) -> Tensor:
    if use_triton(x):
        out: Tensor = fused("pair").conv(x, w, a, b_ptr, b_perm)
        return out
    return row_sum(x.index_select(0, a).mul_(w), b, b_ptr, b_perm)


@torch.library.impl("geomol::edge_dot", "default")
def _edge_dot(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    a_ptr: Tensor,
    a_perm: Tensor | None,
    b: Tensor,
    b_ptr: Tensor,
    b_perm: Tensor | None,
) -> Tensor:
    if use_triton(x):
        out: Tensor = fused("pair").edge_dot(x, y, a, b)
        return out
    return x.index_select(0, a).mul_(y.index_select(0, b))


@torch.library.register_fake("geomol::gather")  # type: ignore[untyped-decorator]
def _gather_fake(x: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    return x.new_empty(index.shape[0], *x.shape[1:])


@torch.library.register_fake("geomol::reduce")  # type: ignore[untyped-decorator]
def _reduce_fake(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    return values.new_empty(ptr.shape[0] - 1, *values.shape[1:])


@torch.library.register_fake("geomol::conv")  # type: ignore[untyped-decorator]
def _conv_fake(
    x: Tensor,
    w: Tensor,
    a: Tensor,
    a_ptr: Tensor,
    a_perm: Tensor | None,
    b: Tensor,
    b_ptr: Tensor,
    b_perm: Tensor | None,
) -> Tensor:
    return x.new_empty(b_ptr.shape[0] - 1, *x.shape[1:])


@torch.library.register_fake("geomol::edge_dot")  # type: ignore[untyped-decorator]
def _edge_dot_fake(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    a_ptr: Tensor,
    a_perm: Tensor | None,
    b: Tensor,
    b_ptr: Tensor,
    b_perm: Tensor | None,
) -> Tensor:
    return x.new_empty(a.shape[0], *x.shape[1:])


def _save_index(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _ops.reduce(grad, *ctx.saved_tensors), None, None, None


def _reduce_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _ops.gather(grad, *ctx.saved_tensors), None, None, None


def _conv_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w, *ab = ctx.saved_tensors
    ba = (*ab[3:], *ab[:3])
    grad_x = _ops.conv(grad, w, *ba) if ctx.needs_input_grad[0] else None
    grad_w = _ops.edge_dot(x, grad, *ab) if ctx.needs_input_grad[1] else None
    return (grad_x, grad_w, *(None,) * 6)


def _edge_dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, *ab = ctx.saved_tensors
    ba = (*ab[3:], *ab[:3])
    grad_x = _ops.conv(y, grad, *ba) if ctx.needs_input_grad[0] else None
    grad_y = _ops.conv(x, grad, *ab) if ctx.needs_input_grad[1] else None
    return (grad_x, grad_y, *(None,) * 6)


torch.library.register_autograd("geomol::gather", _gather_backward, setup_context=_save_index)
torch.library.register_autograd("geomol::reduce", _reduce_backward, setup_context=_save_index)
torch.library.register_autograd("geomol::conv", _conv_backward, setup_context=_save_all)
torch.library.register_autograd("geomol::edge_dot", _edge_dot_backward, setup_context=_save_all)
