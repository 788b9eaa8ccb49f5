"""The operators of geomol written with those of PyTorch, so that a compiler can see through them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# importing the package registers the operators
from geomol import ops  # noqa: F401


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


def plain_forms() -> dict[torch._ops.OpOverload, Callable[..., Tensor]]:
    """How each operator of geomol decomposes. Each form is linear in every argument, hence differentiable at will."""
    own = torch.ops.geomol
    return {
        own.gather.default: _gather,
        own.reduce.default: _reduce,
        own.conv.default: _conv,
        own.edge_dot.default: _edge_dot,
    }
