"""Networks that treat every row by itself, evaluated slice by slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from geomol.ops.constant import weights_are_constant

SLICE_BYTES = 2 << 20  # of the widest array of a slice
FEWEST_SLICES = 4  # fewer gain nothing

RowNetwork = Callable[[Tensor], Tensor]


def _slices(length: int, *arrays: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each array, `length` at a time."""
    return zip(*(torch.split(array, length) for array in arrays), strict=True)


class _InSlices(torch.autograd.Function):
    """Keeps the rows alone, and works out the rest once more for the derivative, of which there is no further one."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, network: RowNetwork, weight: Tensor, bias: Tensor | None, length: int
    ) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.network, ctx.length = network, length
        out = rows.new_empty(*rows.shape[:-1], weight.shape[0])
        for part, into in _slices(length, rows, out):
            into.copy_(linear(network(part), weight, bias))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        by_rows = torch.empty_like(rows)
        for part, into, of_part in _slices(ctx.length, rows, by_rows, grad):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                hidden = ctx.network(part)
            into.copy_(torch.autograd.grad(hidden, part, of_part @ weight)[0])
        return by_rows, None, None, None, None


def linear_of_rows(
    network: RowNetwork, rows: Float[Tensor, "N *R C"], weight: Float[Tensor, "D H"], bias: Float[Tensor, " D"] | None
) -> Float[Tensor, "N *R D"]:
    """W · network(rows) + b for a network that treats each row by itself, its hidden layer H wide.

    On a CPU, where weights are constant, many rows go by slices, of which nothing but the rows is kept: hidden layers
    are worked out once more for the derivative. They would be half of the memory of energy and forces, and new memory
    takes longer to be had than what is written there takes to compute.
    """
    length = max(1, SLICE_BYTES // (math.prod(rows.shape[1:-1]) * weight.shape[1] * rows.dtype.itemsize))
    if rows.is_cuda or not weights_are_constant() or rows.shape[0] < FEWEST_SLICES * length:
        return linear(network(rows), weight, bias)
    return _InSlices.apply(rows, network, weight, bias, length)  # type: ignore[no-any-return,no-untyped-call]
