"""Layer normalisation that may be differentiated any number of times.

PyTorch's own (seen in 2.10 to 2.13) takes its mean and deviation for constants in the second derivative's derivative:
third derivatives, which the gradient of a loss of Hessians needs, are wrong without a word.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _LayerNorm(torch.autograd.Function):
    """PyTorch's kernels for the value and, where nobody asks for more, its derivative; otherwise plain arithmetic."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        out, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():
            found = torch.ops.aten.native_layer_norm_backward(
                grad, x, list(x.shape[-1:]), mean, rstd, weight, bias, list(needs)
            )
            return (*found, None)
        centred = x - x.mean(-1, keepdim=True)
        spread = torch.rsqrt(centred.square().mean(-1, keepdim=True) + ctx.eps)
        normal, slope = centred * spread, grad * weight
        along = (slope * normal).mean(-1, keepdim=True)
        rows = tuple(range(x.dim() - 1))
        return (
            spread * (slope - slope.mean(-1, keepdim=True) - normal * along) if needs[0] else None,
            (grad * normal).sum(rows) if needs[1] else None,
            grad.sum(rows) if needs[2] else None,
            None,
        )


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` over the last axis, with weights, right in all derivatives."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, input: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        out: Tensor = _LayerNorm.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return out
