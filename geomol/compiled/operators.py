"""The operators of geomol written with those of PyTorch, so that a compiler can see through them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

# importing the package registers the operators
from geomol import ops  # noqa: F401
from geomol.ops.fused_cpu import NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT, NEED_X
from geomol.ops.spline import SplineGrid
from geomol.ops.tabulated_cpu import conv_of_block, grads_of_block

Form = Callable[..., Tensor | tuple[Tensor, ...]]


def _gather(x: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    return x.index_select(0, index)


def _reduce(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    return values.new_zeros(ptr.shape[0] - 1, *values.shape[1:]).index_add(0, index, values)


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
    return _reduce(x.index_select(0, a) * w, b, b_ptr, b_perm)


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
    return x.index_select(0, a) * y.index_select(0, b)


def _separable_conv(x: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, *pair: Any) -> Tensor:
    return _conv(x, _small_products(angular, _mixed(radial, weight)), *pair)


def _separable_grads(
    x: Tensor, y: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    """Derivatives of Σ y·out; an empty tensor for each that is not needed."""
    a, a_ptr, _, b, _, _, need = rest
    received, mixed = y.index_select(0, b), _mixed(radial, weight)
    out = [x.new_empty(0)] * 4
    if need & NEED_X:
        out[0] = _reduce(_small_products(angular, mixed) * received, a, a_ptr, None)
    if need & (NEED_ANGULAR | NEED_RADIAL | NEED_WEIGHT):
        product = x.index_select(0, a) * received
        by_mixed = _small_products(angular.mT, product).flatten(1)
        if need & NEED_ANGULAR:
            out[1] = (product[:, :, None] * mixed[:, None]).sum(3)
        if need & NEED_RADIAL:
            out[2] = by_mixed @ weight.flatten(1).mT
        if need & NEED_WEIGHT:
            out[3] = (radial.mT @ by_mixed).view(weight.shape)
    return tuple(out)


def _small_products(left: Tensor, right: Tensor) -> Tensor:
    """A product of small matrices for each pair: a library takes longer for it than loops that a compiler fuses."""
    return (left[:, :, :, None] * right[:, None]).sum(2)


def _mixed(radial: Tensor, weight: Tensor) -> Tensor:
    """Σ_k r_ek W_k, of shape (E, L, C)."""
    return (radial @ weight.flatten(1)).view(-1, *weight.shape[1:])


def _tabulated_conv(x: Tensor, points: Tensor, window: Tensor, table: Tensor, *rest: Any) -> Tensor:
    grid, pair = SplineGrid(tuple(rest[0]), rest[1], tuple(rest[2])), rest[3:]
    return _reduce(conv_of_block(x, points, window, table, grid, pair[0]), *pair[3:])


def _tabulated_grads(
    x: Tensor, y: Tensor, points: Tensor, window: Tensor, table: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    grid, pair = SplineGrid(tuple(rest[0]), rest[1], tuple(rest[2])), rest[3:]
    along, by_points, by_window = grads_of_block(x, y, points, window, table, grid, pair[0], pair[3])
    return _reduce(along, *pair[:3]), by_points, by_window


def _mix_orientations(x: Tensor, kernel: Tensor) -> Tensor:
    return (x[:, None] * kernel).sum(2)


def _orientation_products(y: Tensor, x: Tensor) -> Tensor:
    return (y[:, :, None] * x[:, None]).sum(0)


def plain_forms(whole: Collection[str] = ()) -> dict[torch._ops.OpOverload, Form]:
    """How each operator of geomol decomposes.

    They store what the operators of geomol form block by block or in registers. Where there are few pairs a compiler
    gains by seeing through them; the convolutions that form kernels on the way may be left whole.

    Args:
        whole: which: "separable", "tabulated".
    """
    own = torch.ops.geomol
    forms: dict[torch._ops.OpOverload, Form] = {
        own.gather.default: _gather,
        own.reduce.default: _reduce,
        own.conv.default: _conv,
        own.edge_dot.default: _edge_dot,
        own.mix_orientations.default: _mix_orientations,
        own.orientation_products.default: _orientation_products,
    }
    if "separable" not in whole:
        forms |= {own.separable_conv.default: _separable_conv, own.separable_grads.default: _separable_grads}
    if "tabulated" not in whole:
        forms |= {own.tabulated_conv.default: _tabulated_conv, own.tabulated_grads.default: _tabulated_grads}
    return forms
