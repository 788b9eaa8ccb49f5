"""The neighbour search in C (`cells.c`): the list of `geomol.graph.cells`, element by element, several times faster."""

from __future__ import annotations

import ctypes
import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from geomol.errors import CapacityError
from geomol.graph.checks import TOO_CLOSE
from geomol.graph.images import smallest_square, wrapped_atoms
from geomol.native.library import library
from geomol.ops import segment_index

DONE, NO_MEMORY, TOO_MANY, TOO_MANY_IMAGES = range(4)  # states of a search in cells.c
ROUNDING = 1 + 1e-9  # images are looked for this much farther

Pairs = tuple[Tensor, Tensor, Tensor]
Closest = tuple[float, int, int]  # distance in Å, receiver, sender


class Request(ctypes.Structure):
    """What cells.c is asked; see there."""

    _fields_ = (
        ("num_graphs", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("ptr", "home", "frac", "home_cell", "cell", "periodic", "margin")),
        *((name, ctypes.c_double) for name in ("radius", "below", "close_below")),
        ("max_bytes", ctypes.c_int64),
    )


class Report(ctypes.Structure):
    """What cells.c found; see there."""

    _fields_ = (
        ("status", ctypes.c_int64),
        ("num_pairs", ctypes.c_int64),
        ("num_points", ctypes.c_double),
        ("closest", ctypes.c_double),
        ("closest_dst", ctypes.c_int64),
        ("closest_src", ctypes.c_int64),
    )


def cells_in_c() -> ctypes.CDLL | None:
    """The compiled search, None where there is none or `GEOMOL_NATIVE=0` is set."""
    found = library("cells")
    return None if found is None else _declared(found)


@cache
def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions."""
    found.geomol_cells_find.argtypes = [ctypes.POINTER(Request), ctypes.POINTER(Report)]
    found.geomol_cells_find.restype = ctypes.c_void_p
    found.geomol_cells_write.argtypes = [ctypes.c_void_p] * 4
    found.geomol_cells_free.argtypes = [ctypes.c_void_p]
    found.geomol_cells_free.restype = None
    return found


def native_pairs(
    search: ctypes.CDLL,
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    cutoff: float,
    *,
    max_bytes: int,
) -> tuple[Pairs, Closest | None]:
    """Pairs of checked positions in float64 on the CPU, and the closest if it is nearer than `TOO_CLOSE`.

    Args:
        search: the library.
        pos, ptr, cell, pbc, cutoff, max_bytes: as of `cell_pairs`.

    Raises:
        CapacityError: lists and search would take more than `max_bytes`.
        MemoryError: or more than there is.
    """
    batch = segment_index(ptr, pos.shape[0])
    wrapped = wrapped_atoms(pos, batch, cell, pbc, cutoff * ROUNDING)
    home_cell = None if wrapped.home_cell is None else wrapped.home_cell.long()
    inputs = (ptr.long(), wrapped.home, wrapped.frac, home_cell, wrapped.cell, pbc, wrapped.margin)
    held = [None if value is None else value.contiguous() for value in inputs]  # until the search is over
    request = Request(
        ptr.shape[0] - 1,
        *(None if value is None else value.data_ptr() for value in held),
        cutoff,
        smallest_square(cutoff),
        smallest_square(min(TOO_CLOSE, cutoff)),
        max_bytes,
    )
    report = Report()
    found = search.geomol_cells_find(ctypes.byref(request), ctypes.byref(report))
    try:
        _check(report, pos.shape[0], max_bytes)
        dst, src, shift = _lists(report.num_pairs)
        if search.geomol_cells_write(found, *(int(array.ctypes.data) for array in (dst, src, shift))) != DONE:
            raise MemoryError("no memory for a neighbour list")
    finally:
        search.geomol_cells_free(found)
    pairs = torch.from_numpy(dst), torch.from_numpy(src), torch.from_numpy(shift)
    is_close = math.isfinite(report.closest)
    return pairs, (report.closest, report.closest_dst, report.closest_src) if is_close else None


def _lists(num_pairs: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Room for dst, src and shift, taken at once: above a few MiB NumPy asks for large pages, which cost less."""
    memory = np.empty(5 * num_pairs, dtype=np.int64)
    return memory[:num_pairs], memory[num_pairs : 2 * num_pairs], memory[2 * num_pairs :].reshape(-1, 3)


def _check(report: Report, atoms: int, max_bytes: int) -> None:
    if report.status == DONE:
        return
    if report.status == NO_MEMORY:
        raise MemoryError("no memory for a neighbour search")
    what = (
        f"more than {report.num_pairs:.3g} neighbour pairs of {atoms} atoms"
        if report.status == TOO_MANY
        else f"{report.num_points:.3g} periodic images around {atoms} atoms"
    )
    raise CapacityError(
        f"{what} do not fit",
        expected=f"at most {max_bytes / 1024**3:.3g} GiB",
        remedy="use a smaller cutoff or structure, or raise max_bytes; neighbours are never dropped",
    )
