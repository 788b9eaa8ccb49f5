"""The obvious neighbour list: every pair, every image. The oracle of the tests, and readable as a definition."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomol.graph.checks import check_cell, check_cutoff, check_positions

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def brute_force_neighbour_list(pos: ArrayLike, cell: ArrayLike, pbc: ArrayLike, cutoff: float) -> Pairs:
    """All (dst, src, shift) with |pos[src] + shift @ cell − pos[dst]| < cutoff, by trying every image.

    Let b_k be the dual vectors of the periodic cell rows a_k, so that a_k · b_l = δ_kl. A pair r + Σ_k n_k a_k shorter
    than the cutoff has |r · b_k + n_k| < cutoff · |b_k|, which bounds the images n_k that must be tried for the pair,
    wherever its atoms lie.

    Shapes and errors are those of `neighbour_list`, except that nothing is said about close atoms or memory.
    """
    pos, cell = np.asarray(pos, dtype=np.float64), np.asarray(cell, dtype=np.float64)
    pbc = np.asarray(pbc, dtype=bool)
    cutoff = check_cutoff(cutoff)
    check_positions(pos)
    check_cell(cell, pbc)
    axes = np.flatnonzero(pbc)
    dual = np.linalg.pinv(cell[axes]).T if len(axes) else np.zeros((0, 3))  # (P, 3)
    reach = cutoff * np.linalg.norm(dual, axis=1)
    found: list[tuple[int, ...]] = []
    for i, j in itertools.product(range(len(pos)), repeat=2):
        frac = dual @ (pos[j] - pos[i])
        ranges = [range(int(np.ceil(-f - r)) - 1, int(np.floor(r - f)) + 2) for f, r in zip(frac, reach, strict=True)]
        images = list(itertools.product(*ranges))
        shift = np.zeros((len(images), 3), dtype=np.int64)
        shift[:, axes] = images
        vec = pos[j] + shift @ np.where(pbc[:, None], cell, 0.0) - pos[i]
        near = np.linalg.norm(vec, axis=1) < cutoff
        if i == j:
            near &= shift.any(axis=1)
        found += [(i, j, *s) for s in shift[near].tolist()]
    table = np.array(found, dtype=np.int64).reshape(-1, 5)
    return table[:, 0], table[:, 1], table[:, 2:]
