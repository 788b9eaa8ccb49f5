"""Sums over sorted rows: the one reduction that everything else stands on, in interchangeable implementations.

A *row* is the run of values that belongs to one node: `values[perm][ptr[i]:ptr[i + 1]]`, where `perm` is None when the
values are sorted already. Every implementation gives the same sum in a fixed order, so results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from geomol.ops.backend import fused, use_triton

RowSum = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def row_sum_slow(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    """The obvious loop over values, kept as the oracle of the tests."""
    out = values.new_zeros(ptr.shape[0] - 1, *values.shape[1:])
    for e in range(values.shape[0]):
        out[index[e]] += values[e]
    return out


def row_sum_index_add(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    """Sequential accumulation: the fastest on CPU, where it is deterministic (on CUDA it would use atomics)."""
    out = values.new_zeros(ptr.shape[0] - 1, *values.shape[1:])
    return out.index_add_(0, index, values)


def row_sum_segment_reduce(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    """One program per row, no atomics: the deterministic choice on CUDA."""
    sorted_values = values if perm is None else values.index_select(0, perm)
    return torch.segment_reduce(sorted_values, "sum", offsets=ptr, axis=0, initial=0.0)


def row_sum_torch_scatter(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    """`torch_scatter.segment_csr`, where that package is installed."""
    from torch_scatter import segment_csr

    sorted_values = values if perm is None else values.index_select(0, perm)
    out: Tensor = segment_csr(sorted_values, ptr, reduce="sum")
    return out


def row_sum_triton(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    """Our kernel: one program per row, no atomics, and no sorted copy of the values."""
    out: Tensor = fused("pair").reduce(values, ptr, perm)
    return out


@cache
def has_torch_scatter() -> bool:
    """Whether torch-scatter can be imported; asked once."""
    try:
        import torch_scatter  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def row_sum(values: Tensor, index: Tensor, ptr: Tensor, perm: Tensor | None) -> Tensor:
    """Sum of the values of each row, by the fastest deterministic implementation for the device.

    Args:
        values: (E, ...).
        index: (E,) row of each value.
        ptr: (N + 1,) row pointers into `values[perm]`.
        perm: (E,) order in which the values are sorted by row, or None when they are.
    """
    if use_triton(values):
        return row_sum_triton(values, index, ptr, perm)
    if not values.is_cuda:
        return row_sum_index_add(values, index, ptr, perm)
    if has_torch_scatter():
        return row_sum_torch_scatter(values, index, ptr, perm)
    return row_sum_segment_reduce(values, index, ptr, perm)
