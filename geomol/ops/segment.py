"""Reductions over consecutive runs of rows: nodes of a graph, edges of a node."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.ops import kernels  # noqa: F401
from geomol.ops.forward_mode import refuse_tangents

_ops = torch.ops.geomol


def segment_index(ptr: Int[Tensor, " P"], num_values: int) -> Int[Tensor, " N"]:
    """Segment of each value: [0, 0, 1, ...] for pointers [0, 2, 3, ...]."""
    return torch.repeat_interleave(
        torch.arange(ptr.shape[0] - 1, device=ptr.device), ptr.diff(), output_size=num_values
    )


def segment_sum(values: Float[Tensor, "N *F"], ptr: Int[Tensor, " P"]) -> Float[Tensor, "G *F"]:
    """Sum of each segment; 0 for an empty one."""
    refuse_tangents(values)
    out: Tensor = _ops.reduce(values, segment_index(ptr, values.shape[0]), ptr, None)
    return out


def segment_mean(values: Float[Tensor, "N *F"], ptr: Int[Tensor, " P"]) -> Float[Tensor, "G *F"]:
    """Mean of each segment; 0 for an empty one. Not smooth where the number of values changes."""
    counts = ptr.diff().clamp(min=1).to(values.dtype)
    return segment_sum(values, ptr) / counts.view(-1, *[1] * (values.dim() - 1))


def segment_max(values: Float[Tensor, "N *F"], ptr: Int[Tensor, " P"]) -> Float[Tensor, "G *F"]:
    """Largest value of each segment; −inf for an empty one. The gradient is shared evenly between equal maxima."""
    index = segment_index(ptr, values.shape[0])
    index = index.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    out = values.new_full((ptr.shape[0] - 1, *values.shape[1:]), -torch.inf)
    return out.scatter_reduce(0, index, values, "amax")


def segment_softmax(values: Float[Tensor, "N *F"], ptr: Int[Tensor, " P"]) -> Float[Tensor, "N *F"]:
    """Softmax within each segment, stable for large values."""
    index = segment_index(ptr, values.shape[0])
    # the shift by the maximum cancels exactly, so it carries no gradient
    weights = torch.exp(values - segment_max(values.detach(), ptr)[index])
    total: Tensor = _ops.gather(segment_sum(weights, ptr), index, ptr, None)
    return weights / total
