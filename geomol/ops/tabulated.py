"""Convolution with a kernel that is read from a table: read, gather and reduce in one operator.

    out_i[o, c] = Σ_{e into i} x[a_e, o, c] w_e S_c(p_eo)

with a spline S over the points p (see `SplineGrid`) and a window w; no kernel is stored. `tabulated_conv` is the
derivative of T = Σ y·out by y, `tabulated_grads` gives those by x, p and w at once; further derivatives are those of
the same sum with whole arrays. There are none by the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.ops import tabulated_cpu
from geomol.ops.edges import Edges, one_dtype
from geomol.ops.forward_mode import refuse_tangents
from geomol.ops.spline import SplineGrid

_PAIR = "Tensor a, Tensor a_ptr, Tensor? a_perm, Tensor b, Tensor b_ptr, Tensor? b_perm"
_TABLE = "Tensor points, Tensor window, Tensor table, float[] start, float spacing, int[] counts"
torch.library.define("geomol::tabulated_conv", f"(Tensor x, {_TABLE}, {_PAIR}) -> Tensor")
torch.library.define("geomol::tabulated_grads", f"(Tensor x, Tensor y, {_TABLE}, {_PAIR}) -> (Tensor, Tensor, Tensor)")
_ops = torch.ops.geomol
_GRID_AND_PAIR = 9  # arguments after the table


@torch.library.impl("geomol::tabulated_conv", "default")
def _conv(x: Tensor, points: Tensor, window: Tensor, table: Tensor, *rest: Any) -> Tensor:
    *place, a, _, _, b, b_ptr, _ = rest
    return tabulated_cpu.conv(x, points, window, table, _grid(place), a, b, len(b_ptr) - 1)


@torch.library.impl("geomol::tabulated_grads", "default")
def _grads(
    x: Tensor, y: Tensor, points: Tensor, window: Tensor, table: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *place, a, _, _, b, _, _ = rest
    return tabulated_cpu.grads(x, y, points, window, table, _grid(place), a, b)


def _grid(place: Sequence[Any]) -> SplineGrid:
    start, spacing, counts = place
    return SplineGrid(tuple(start), spacing, tuple(counts))


@torch.library.register_fake("geomol::tabulated_conv")  # type: ignore[untyped-decorator]
def _conv_fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(rest[-2].shape[0] - 1, *x.shape[1:])


@torch.library.register_fake("geomol::tabulated_grads")  # type: ignore[untyped-decorator]
def _grads_fake(x: Tensor, y: Tensor, points: Tensor, window: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), points.new_empty(points.shape), window.new_empty(window.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.grid = inputs[-_GRID_AND_PAIR : -_GRID_AND_PAIR + 3]
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor) or value is None))


def _conv_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, points, window, table, *pair = ctx.saved_tensors
    by_x, by_points, by_window = _ops.tabulated_grads(x, grad, points, window, table, *ctx.grid, *pair)
    return (by_x, by_points, by_window, None, *(None,) * _GRID_AND_PAIR)


def _grads_backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
    """Derivatives of Σ tangent · derivative of T, with T written as whole arrays."""
    *own, table, a, _, _, b, _, _ = ctx.saved_tensors
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # a new name for each, so that no input is differentiated through another
        x, y, points, window = (t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in own)
        kernel = _grid(ctx.grid).places(points.flatten(0, 1)).read(table)
        total = (kernel.view(-1, *x.shape[1:]) * window[:, None, None] * x[a] * y[b]).sum()
        first = torch.autograd.grad(total, (x, points, window), create_graph=True)
        value = torch.stack([(t * g).sum() for t, g in zip(tangents, first, strict=True)]).sum()
        second = torch.autograd.grad(value, (x, y, points, window), create_graph=create, allow_unused=True)
    return (*second, None, *(None,) * _GRID_AND_PAIR)


torch.library.register_autograd("geomol::tabulated_conv", _conv_backward, setup_context=_save)
torch.library.register_autograd("geomol::tabulated_grads", _grads_backward, setup_context=_save)


def tabulated_conv(
    x: Float[Tensor, "N O C"],
    points: Float[Tensor, "E O A"],
    window: Float[Tensor, " E"],
    table: Float[Tensor, "R C"],
    grid: SplineGrid,
    edges: Edges,
) -> Float[Tensor, "M O C"]:
    """Convolution with the kernel window × spline, formed on the way and never stored.

    Args:
        x: features of the nodes.
        points: where the kernel is read, for each edge and orientation; derivatives go there.
        window: of each edge.
        table: coefficients of the spline, see `SplineGrid.table`; a constant.
        grid: of the table.
        edges: pairs sorted by receiver.

    Raises:
        ValueError: a table that is not of this grid or these channels, or points of other edges or orientations.
    """
    expected = (window.shape[0], x.shape[1], len(grid.counts)), (grid.num_rows, x.shape[2])
    if (tuple(points.shape), tuple(table.shape)) != expected:
        raise ValueError(f"points and table of shape {tuple(points.shape)} and {tuple(table.shape)}, not {expected}")
    x, points, window, table = one_dtype(x, points, window, table)
    pair = (edges.src, edges.send_ptr, edges.send_perm, edges.dst, edges.edge_ptr, None)
    refuse_tangents(x, points, window, table)
    out: Tensor = _ops.tabulated_conv(x, points, window, table, grid.start, grid.spacing, grid.counts, *pair)
    return out
