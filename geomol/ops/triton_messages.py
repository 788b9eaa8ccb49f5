"""The edge block of EGNN by fused kernels: value, derivatives, and derivatives of those.

Results repeat bit for bit. Products of float32 are made of three TF32 ones, which lose nothing that float32 has, or of
one where PyTorch is told that this is enough (`torch.set_float32_matmul_precision`).

Import only where a kernel runs (`geomol.ops.backend.fused`): this needs Triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geomol.ops import triton_messages_kernels as kernels
from geomol.ops.fused_messages_cpu import Inputs
from geomol.ops.triton_jit import launch, triton
from geomol.ops.triton_pair import reduce

BLOCK_E = 16  # edges of a tile: the fewest that a product takes, for rows are short
FEWEST = 32  # columns of a product, so that all warps have their part of them
FEWEST_SUMMED = 64  # channels where sums over edges for W are held: narrower ones are not spread over the warps
ROWS = 8  # most rows of a program that adds up nothing for the weights
PROGRAMS = 256  # that do: not by the device, so that all devices add up in the same order

Rows = tuple[Tensor, Tensor, Tensor, Tensor]  # senders, row pointers of receivers and of senders, order by senders


def _settings(t: Inputs, rows_each: int, sums: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Numbers and constants that every kernel takes."""
    (num_rows, channels), num_feats = t.receiver.shape, t.feats.shape[1]
    exact = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    constants = {
        "HAS_GATE": t.gate_weight is not None,
        "PRECISION": "ieee" if t.receiver.dtype == torch.float64 else exact,
        "BLOCK_E": BLOCK_E,
        "BLOCK_C": max(triton.next_power_of_2(channels), FEWEST_SUMMED if sums else FEWEST),
        "BLOCK_K": max(triton.next_power_of_2(num_feats), FEWEST),
        "warps": 8 if sums else 4,  # as many as leave a thread with enough registers
    }
    return (num_rows, rows_each, num_feats, channels), constants


def _given(t: Inputs, rows: Rows) -> list[Tensor]:
    return [*(t.receiver if value is None else value.contiguous() for value in t.tensors()), rows[0], rows[1]]


def _run(kernel: Any, t: Inputs, tensors: list[Tensor], rows_each: int, *, sums: bool, **constants: bool) -> None:
    sizes, settings = _settings(t, rows_each, sums)
    if sizes[0] > 0:
        launch(kernel, (triton.cdiv(sizes[0], rows_each),), *tensors, *sizes, **settings, **constants)


def _places(t: Inputs) -> Inputs:
    """Where derivatives go: those of nodes and edges are written whole, those of the weights stay zero if not asked."""
    nodes_and_edges = (t.receiver, t.sender, t.feats, t.window)
    weights = (t.edge_weight, t.edge_bias, t.weight, t.bias, t.gate_weight, t.gate_bias)
    return Inputs(
        *(torch.empty_like(v) for v in nodes_and_edges), *(None if v is None else torch.zeros_like(v) for v in weights)
    )


class _Sums:
    """Places where each program adds up what belongs to the weights."""

    def __init__(self, t: Inputs, programs: int) -> None:
        parts = (t.edge_weight, t.weight, t.bias, t.gate_weight, t.gate_bias)
        self.places = [t.receiver.new_empty(0 if p is None else (programs, *p.shape)) for p in parts]

    def write(self, by: Inputs) -> None:
        """Adds up over programs, in their order; e enters where p does."""
        parts = (by.edge_weight, by.weight, by.bias, by.gate_weight, by.gate_bias)
        for total, place in zip(parts, self.places, strict=True):
            if total is not None and len(place):
                total.copy_(place.sum(0))
        by.edge_bias.copy_(by.receiver.sum(0))


def messages(t: Inputs, rows: Rows) -> Tensor:
    """Σ over the edges into each node of m."""
    out = torch.empty_like(t.receiver)
    _run(kernels.messages_kernel, t, [*_given(t, rows), out], min(max(len(out) // 2048, 1), ROWS), sums=False)
    return out


def grads(y: Tensor, t: Inputs, rows: Rows, weights: bool) -> Inputs:
    """Derivatives of Σ y·out by every input; by V, e, W, b, w and c only if `weights`, zero otherwise."""
    by, hidden = _places(t), y.new_empty(len(t.feats), y.shape[1])
    num = len(y)
    rows_each = max(triton.cdiv(num, PROGRAMS), 1) if weights else min(max(num // 2048, 1), ROWS)
    sums = _Sums(t, triton.cdiv(num, rows_each) if weights else 0)
    found = [by.receiver, hidden, by.feats, by.window, *sums.places]
    _run(kernels.grads_kernel, t, [y, *_given(t, rows), *found], rows_each, sums=weights, WEIGHTS=weights)
    by.sender.copy_(reduce(hidden, *rows[2:]))
    if weights:
        sums.write(by)
    return by


def grads_twice(dot: Inputs, y: Tensor, t: Inputs, rows: Rows) -> tuple[Tensor, Inputs]:
    """Derivatives by y and by every input of the product of the tangents `dot` with the derivatives above.

    The tangents of V, e, W, b, w and c are zero, as they are when one trains on forces.
    """
    by_y, by, hidden = torch.empty_like(y), _places(t), y.new_empty(len(t.feats), y.shape[1])
    rows_each = max(triton.cdiv(len(y), PROGRAMS), 1)
    sums = _Sums(t, triton.cdiv(len(y), rows_each))
    tangents = [value.contiguous() for value in (dot.receiver, dot.sender, dot.feats, dot.window)]
    found = [by_y, by.receiver, hidden, by.feats, by.window, *sums.places]
    _run(kernels.grads_twice_kernel, t, [y, *tangents, *_given(t, rows), *found], rows_each, sums=True)
    by.sender.copy_(reduce(hidden, *rows[2:]))
    sums.write(by)
    return by_y, by
