"""The tabulated convolution on a CPU: in C where the machine has a compiler, else by blocks of edges."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from geomol.native.library import function
from geomol.native.threads import cuts, share
from geomol.ops.blocks import block_size
from geomol.ops.shapes import check_shapes
from geomol.ops.spline import SplineGrid, weighted_rows

WORK_PER_VALUE = {1: 4, 2: 16}  # coefficients by number of axes
_REAL = {torch.float32: "float", torch.float64: "double"}


def conv(
    x: Tensor, points: Tensor, window: Tensor, table: Tensor, grid: SplineGrid, a: Tensor, b: Tensor, num_rows: int
) -> Tensor:
    """out_i = Σ_{e into i} x[a_e] w_e S(p_e)."""
    out = x.new_zeros(num_rows, *x.shape[1:])
    if (run := _in_c("conv", grid, x, points, window, table)) is not None:
        given = {"x": x, "points": points, "window": window, "table": table, "a": a.long(), "b": b.long()}
        _run(run, grid, num_rows, given, {"out": out})  # threads share no receiver
        return out
    size = block_size(x.shape[1:].numel(), x.dtype)
    for first in range(0, len(a), size):
        block = slice(first, first + size)
        out.index_add_(0, b[block], conv_of_block(x, points[block], window[block], table, grid, a[block]))
    return out


def grads(
    x: Tensor, y: Tensor, points: Tensor, window: Tensor, table: Tensor, grid: SplineGrid, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of Σ y·out by x, points and window."""
    by_x = x.new_zeros(x.shape)
    by_points, by_window = points.new_empty(points.shape), window.new_empty(window.shape)
    if (run := _in_c("grads", grid, x, y, points, window, table)) is not None:
        given = {"x": x, "points": points, "window": window, "table": table, "a": a.long(), "b": b.long(), "y": y}
        places = {"out": by_x, "by_points": by_points, "by_window": by_window}
        _run(run, grid, len(y), given, places, apart=("out",))
        return by_x, by_points, by_window
    size = block_size(x.shape[1:].numel(), x.dtype)
    for first in range(0, len(a), size):
        block = slice(first, first + size)
        back, by_points[block], by_window[block] = grads_of_block(
            x, y, points[block], window[block], table, grid, a[block], b[block]
        )
        by_x.index_add_(0, a[block], back)
    return by_x, by_points, by_window


def conv_of_block(x: Tensor, points: Tensor, window: Tensor, table: Tensor, grid: SplineGrid, a: Tensor) -> Tensor:
    """Messages along some edges, (E, O, C)."""
    places = grid.places(points.flatten(0, 1))
    kernel = weighted_rows(table, places.index, places.weights(*(0 for _ in grid.counts)))
    return kernel.view(-1, *x.shape[1:]) * window[:, None, None] * x.index_select(0, a)


def grads_of_block(
    x: Tensor, y: Tensor, points: Tensor, window: Tensor, table: Tensor, grid: SplineGrid, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What some edges add to the derivative by x at their senders, (E, O, C), and those by their points and window."""
    shape, axes = (-1, *x.shape[1:]), range(len(grid.counts))
    places = grid.places(points.flatten(0, 1))
    received, sent = y.index_select(0, b), x.index_select(0, a)
    kernel = weighted_rows(table, places.index, places.weights(*(0 for _ in axes))).view(shape)
    along = kernel * received
    product = sent * received * window[:, None, None]
    slopes = []
    for axis in axes:
        slope = weighted_rows(table, places.index, places.weights(*(int(k == axis) for k in axes))).view(shape)
        slopes.append((slope * product).sum(2))
    return along * window[:, None, None], torch.stack(slopes, dim=2), (along * sent).sum((1, 2))


class _Request(ctypes.Structure):
    """What tabulated.c is asked; see there."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("first", "last", "num_nodes", "num_rows", "num_ori", "channels", "num_axes")
        ),
        *((name, ctypes.c_void_p) for name in ("x", "y", "points", "window", "table", "a", "b")),
        ("start", ctypes.c_double * 2),
        ("spacing", ctypes.c_double),
        ("count", ctypes.c_int64 * 2),
        *((name, ctypes.c_void_p) for name in ("out", "by_points", "by_window")),
        ("stranger", ctypes.c_int64),
    )


def _run(
    run: Callable[..., None],
    grid: SplineGrid,
    num_rows: int,
    given: dict[str, Tensor],
    places: dict[str, Tensor],
    apart: Collection[str] = (),
) -> None:
    """Calls the C function in threads; sums in `apart`, which they would share, each takes by itself."""
    edges, nodes = len(given["b"]), given["x"].shape
    shapes = {"a": (edges,), "b": (edges,), "x": nodes, "y": (num_rows, *nodes[1:]), "window": (edges,)}
    shapes |= {"points": (edges, nodes[1], len(grid.counts)), "table": (grid.num_rows, nodes[2])}
    check_shapes(given, shapes)
    held = {key: value.contiguous() for key, value in given.items()}
    x, (_, num_ori, axes) = held["x"], held["points"].shape
    work = WORK_PER_VALUE[axes] * num_ori * x.shape[2]

    def request(first: int, last: int, to: Mapping[str, Tensor]) -> _Request:
        out = _Request(first, last, len(x), num_rows, num_ori, x.shape[2], axes, stranger=-1)
        out.start[:axes], out.count[:axes], out.spacing = grid.start, grid.counts, grid.spacing
        for key, value in (held | dict(to)).items():
            setattr(out, key, value.data_ptr())
        return out

    shared = sum(places[key].numel() for key in apart)
    share(run, request, cuts(held["b"], work_per_edge=work, apart=shared), places, apart)


def _in_c(name: str, grid: SplineGrid, x: Tensor, *others: Tensor) -> Callable[..., None] | None:
    """None where there is no library, or for numbers and grids that it does not know."""
    if x.dtype not in _REAL or x.device.type != "cpu" or len(grid.counts) > 2:
        return None
    if any(other.dtype != x.dtype for other in others):
        return None
    return function("tabulated", f"geomol_tabulated_{name}_{_REAL[x.dtype]}", ctypes.POINTER(_Request))
