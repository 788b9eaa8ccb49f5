"""Neighbours of small systems from one table of all distances."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from geomol.graph.checks import TOO_CLOSE
from geomol.graph.native_search import Closest

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
Found = tuple[Pairs, Closest | None]  # and the closest pair, if that is too close


def tabulate_molecule(pos: NDArray[np.float64], radius: float) -> Found:
    """Pairs without images from one table of distances, in the least number of calls."""
    vec = pos[:, None] - pos
    square = np.einsum("ijk,ijk->ij", vec, vec)
    square.reshape(-1)[:: len(pos) + 1] = np.inf  # the diagonal
    dst, src = (square < radius * radius).nonzero()
    return (dst, src, np.zeros((len(dst), 3), dtype=np.int64)), closest_pair(square[dst, src], dst, src)


def tabulate(pos: NDArray[np.float64], box: NDArray[np.float64], images: NDArray[np.float64], radius: float) -> Found:
    """Pairs with images from one table of distances."""
    shifts = np.array(list(itertools.product(*(range(-int(n), int(n) + 1) for n in images))), dtype=np.int64)
    # (dst, src, image); the opposite pair has exactly the opposite vector
    vec = (pos - pos[:, None])[:, :, None] + shifts @ box
    square = np.einsum("ijsk,ijsk->ijs", vec, vec)
    atoms = np.arange(len(pos))
    square[atoms, atoms, len(shifts) // 2] = np.inf  # an atom is not its own neighbour in the same image
    dst, src, image = (square < radius * radius).nonzero()
    return (dst, src, shifts[image]), closest_pair(square[dst, src, image], dst, src)


def closest_pair(square: NDArray[np.float64], dst: NDArray[np.int64], src: NDArray[np.int64]) -> Closest | None:
    """The closest pair by its squared distance, if that is too close."""
    if len(square) == 0 or square.min() >= TOO_CLOSE * TOO_CLOSE:
        return None
    nearest = int(square.argmin())
    return float(np.sqrt(square[nearest])), int(dst[nearest]), int(src[nearest])
