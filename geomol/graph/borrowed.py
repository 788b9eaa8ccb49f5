"""Neighbours by searches of others: vesin's cell list, and the k-d tree of SciPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from vesin import NeighborList

from geomol.graph.tables import Pairs

ROUNDING = 1 + 1e-9  # searches look this much farther; the radius itself is applied to the pairs they find


def vesin_pairs(pos: NDArray[np.float64], box: NDArray[np.float64], pbc: NDArray[np.bool_], radius: float) -> Pairs:
    """Pairs by vesin's cell list, and perhaps some a rounding error beyond the radius."""
    search = NeighborList(cutoff=radius * ROUNDING, full_list=True, n_threads=1)
    dst, src, shift = search.compute(pos, box, pbc, "ijS")
    return dst.astype(np.int64), src.astype(np.int64), shift.astype(np.int64)


def tree_pairs(pos: NDArray[np.float64], box: NDArray[np.float64], images: NDArray[np.float64], radius: float) -> Pairs:
    """Pairs by a k-d tree over the atoms and those images that lie within the radius of the cell, as `vesin_pairs`."""
    inverse = np.linalg.inv(box)
    margin = radius * np.linalg.norm(inverse, axis=0) * ROUNDING + 1e-9
    frac, atom, shift = pos @ inverse, np.arange(len(pos)), np.zeros((len(pos), 3), dtype=np.int64)
    for axis in np.flatnonzero(images):
        steps = np.arange(-int(images[axis]), int(images[axis]) + 1)
        moved = frac[atom, axis] + steps[:, None]  # (steps, atoms so far)
        step, which = ((moved > -margin[axis]) & (moved < 1 + margin[axis])).nonzero()
        atom, shift = atom[which], shift[which]
        shift[:, axis] = steps[step]
    table = cKDTree(pos).sparse_distance_matrix(
        cKDTree(pos[atom] + shift @ box), radius * ROUNDING, output_type="ndarray"
    )
    dst, src, shift = table["i"].astype(np.int64), atom[table["j"]], shift[table["j"]]
    keep = (dst != src) | shift.any(axis=1)
    return dst[keep], src[keep], shift[keep]


def sorted_pairs(dst: NDArray[np.int64], src: NDArray[np.int64], shift: NDArray[np.int64], num_atoms: int) -> Pairs:
    """Pairs in the order of (dst, src, shift)."""
    if len(dst) == 0:
        return dst, src, shift
    low = shift.min(axis=0)
    span = shift.max(axis=0) - low + 1
    if num_atoms**2 * float(np.prod(span.astype(np.float64))) >= 2.0**62:
        order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], src, dst))
    else:
        key = dst * num_atoms + src
        for axis in range(3):
            key = key * span[axis] + (shift[:, axis] - low[axis])
        order = np.argsort(key)
    return dst[order], src[order], shift[order]
