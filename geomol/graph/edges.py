"""Edges of many structures in flat arrays, each structure numbered from zero: what graphs are put together from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from geomol.errors import InputError
from geomol.graph.checks import check_cell, check_positions
from geomol.graph.neighbours import find_pairs
from geomol.graph.tables import Pairs


@dataclass(frozen=True, eq=False)
class FlatEdges:
    """Edges of S structures, sorted by structure, receiver, sender and shift.

    Attributes:
        dst, src: (E,) int64 receiver and sender, counted within their structure.
        shift: (E, 3) int64 lattice translation of the sender.
        ptr: (S + 1,) int64 first edge of each structure.
    """

    dst: NDArray[np.int64]
    src: NDArray[np.int64]
    shift: NDArray[np.int64]
    ptr: NDArray[np.int64]


def list_edges(
    pos: NDArray[np.float64],
    ptr: NDArray[np.int64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
    *,
    complete: bool = False,
    device: torch.device | str | None = None,
) -> FlatEdges:
    """Neighbours of every structure, or all its pairs if `complete`; large ones are searched on the device."""
    single = len(ptr) == 2
    found: list[Pairs] = []
    for k, (first, last) in enumerate(zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)):
        where = None if single else f"structure {k}"
        if complete:
            check_positions(pos[first:last], where)
            check_cell(cell[k], pbc[k], where)
            found.append(_complete_pairs(last - first, pbc[k], where))
        else:
            found.append(find_pairs(pos[first:last], cell[k], pbc[k], cutoff, where=where, device=device))
    counts = np.array([0, *(len(pairs[0]) for pairs in found)], dtype=np.int64)
    if single:
        return FlatEdges(*found[0], ptr=counts)
    dst, src, shift = (np.concatenate([pairs[k] for pairs in found]) for k in range(3))
    return FlatEdges(dst, src, shift, counts.cumsum())


def _complete_pairs(num_atoms: int, pbc: NDArray[np.bool_], where: str | None) -> Pairs:
    """Every pair of different atoms, sorted."""
    if pbc.any():
        raise InputError(
            "a complete graph has no end in a periodic structure",
            where=where,
            remedy="give a cutoff, or set pbc to False",
        )
    dst = np.arange(num_atoms).repeat(num_atoms - 1)
    src = np.tile(np.arange(num_atoms - 1), num_atoms)
    src += src >= dst
    return dst, src, np.zeros((len(dst), 3), dtype=np.int64)
