"""The mixing of orientations of R³×S²: a small matrix for each channel, the same at all nodes; closed under
differentiation.

    out[n, p, c] = Σ_o x[n, o, c] k[p, o, c]

The sum T = Σ y·out is linear in x, y and k; `mix_orientations` is its derivative by y (and, with k turned, by x),
`orientation_products` that by k. To an `einsum` it is a product of matrices for each channel, with strides that no
library takes: on a CPU PyTorch copies and multiplies them one by one. It is a sum over o with the channels innermost.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.ops import mixing_cpu
from geomol.ops.constant import as_weight
from geomol.ops.edges import one_dtype
from geomol.ops.forward_mode import refuse_tangents

torch.library.define("geomol::mix_orientations", "(Tensor x, Tensor kernel) -> Tensor")
torch.library.define("geomol::orientation_products", "(Tensor y, Tensor x) -> Tensor")
_ops = torch.ops.geomol


@torch.library.impl("geomol::mix_orientations", "default")
def _mix(x: Tensor, kernel: Tensor) -> Tensor:
    return torch.einsum("noc,poc->npc", x, kernel).contiguous() if x.is_cuda else mixing_cpu.mix(x, kernel)


@torch.library.impl("geomol::orientation_products", "default")
def _products(y: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("npc,noc->poc", y, x).contiguous() if x.is_cuda else mixing_cpu.products(y, x)


@torch.library.register_fake("geomol::mix_orientations")  # type: ignore[untyped-decorator]
def _mix_fake(x: Tensor, kernel: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], kernel.shape[0], x.shape[2])


@torch.library.register_fake("geomol::orientation_products")  # type: ignore[untyped-decorator]
def _products_fake(y: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(y.shape[1], x.shape[1], x.shape[2])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: object) -> None:
    ctx.save_for_backward(*inputs)


def _mix_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, kernel = ctx.saved_tensors
    by_x, by_kernel = ctx.needs_input_grad
    return (
        _ops.mix_orientations(grad, kernel.transpose(0, 1)) if by_x else None,
        _ops.orientation_products(grad, x) if by_kernel else None,
    )


def _products_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    y, x = ctx.saved_tensors
    by_y, by_x = ctx.needs_input_grad
    return (
        _ops.mix_orientations(x, grad) if by_y else None,
        _ops.mix_orientations(y, grad.transpose(0, 1)) if by_x else None,
    )


torch.library.register_autograd("geomol::mix_orientations", _mix_backward, setup_context=_save)
torch.library.register_autograd("geomol::orientation_products", _products_backward, setup_context=_save)


def mix_orientations(x: Float[Tensor, "N O C"], kernel: Float[Tensor, "P O C"]) -> Float[Tensor, "N P C"]:
    """Σ_o x(o) k(p, o), channel by channel.

    Args:
        x: features of nodes on a grid of orientations.
        kernel: between all pairs of orientations.

    Raises:
        ValueError: a kernel of other orientations or channels.
    """
    if kernel.shape[1:] != x.shape[1:]:
        raise ValueError(f"kernel of shape {tuple(kernel.shape)} for features of shape {tuple(x.shape)}")
    factors = one_dtype(x, as_weight(kernel))
    refuse_tangents(*factors)
    out: Tensor = _ops.mix_orientations(*factors)
    return out
