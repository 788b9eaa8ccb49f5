"""Gathering and summing rows by an index in any order; the verbs of sorted ones are in `edges` and `segment`.

PyTorch's own are sequential on a CPU. On a GPU they add in no fixed order, `index_add` and the derivative of
`index_select` alike, so results would not repeat; there the index is sorted first.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.ops import kernels  # noqa: F401
from geomol.ops.forward_mode import refuse_tangents

_ops = torch.ops.geomol


def gather_rows(x: Float[Tensor, "N *F"], index: Int[Tensor, " M"]) -> Float[Tensor, "M *F"]:
    """x[index], with a derivative that repeats bit for bit."""
    if not (x.is_cuda and x.requires_grad):
        return x.index_select(0, index)
    refuse_tangents(x)
    out: Tensor = _ops.gather(x, index, *_sorted_rows(index, x.shape[0]))
    return out


def sum_to_rows(values: Float[Tensor, "M *F"], index: Int[Tensor, " M"], num_rows: int) -> Float[Tensor, "N *F"]:
    """Sum of the values of each index, in the order in which they come; 0 for an index without any."""
    if not values.is_cuda:
        return values.new_zeros(num_rows, *values.shape[1:]).index_add(0, index, values)
    refuse_tangents(values)
    out: Tensor = _ops.reduce(values, index, *_sorted_rows(index, num_rows))
    return out


def _sorted_rows(index: Int[Tensor, " M"], num_rows: int) -> tuple[Int[Tensor, " P"], Int[Tensor, " M"]]:
    """Bounds of each row, and the order that sorts the index."""
    ascending, perm = torch.sort(index, stable=True)
    # not bincount, for which the host would have to wait
    return torch.searchsorted(ascending, torch.arange(num_rows + 1, device=index.device)), perm
