"""Bond orders from distances, by the tables of EDM.

Source: Hoogeboom, Satorras, Vignac, Welling, ICML 2022 (arXiv:2203.17003), with its code. A pair at distance d has a
single bond where d < single + 10 pm, a double one where also d < double + 5 pm, a triple one where also
d < triple + 3 pm; all strict. The margins were tuned there to let most molecules of QM9 pass. The tables end at H, C,
N, O and F: no pair with another element is bonded. They know neither charges nor aromatic bonds.
"""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from geomol.data import BOND_LENGTHS_PM, MARGINS_PM, Structures

PAIRS_AT_ONCE = 1 << 19  # bounds the memory of the distances, about 50 bytes a pair


def _limits() -> np.ndarray:
    """Upper bound in pm of each order (3) between two atomic numbers; −inf for a pair that is in no table."""
    limits = np.full((len(MARGINS_PM), len(chemical_symbols), len(chemical_symbols)), -np.inf)
    for (i, j), lengths in BOND_LENGTHS_PM.items():
        for level, length, margin in zip(limits, lengths, MARGINS_PM, strict=False):
            level[i, j] = level[j, i] = length + margin
    return limits


LIMITS = _limits()


def orders_at(
    first: Int[np.ndarray, "*S"], second: Int[np.ndarray, "*S"], distance: Float[np.ndarray, "*S"]
) -> Int[np.ndarray, "*S"]:
    """Bond orders of pairs of elements at these distances in Å."""
    d = 100 * distance
    single = d < LIMITS[0][first, second]
    double = single & (d < LIMITS[1][first, second])
    triple = double & (d < LIMITS[2][first, second])
    return np.asarray(single.astype(np.int8) + double.astype(np.int8) + triple.astype(np.int8))


def edm_bonds(structures: Structures) -> list[np.ndarray]:
    """Bond orders (n, n) int8 of every structure, 0 to 3, symmetric.

    Structures of equal size are done together. Cells are ignored: these are molecules. A position that is not finite
    has no bonds, nor has a number that is no element.
    """
    counts, ptr = structures.n_atoms, structures.ptr
    known = (structures.numbers > 0) & (structures.numbers < len(chemical_symbols))
    numbers = np.where(known, structures.numbers, 0)
    found: list[np.ndarray] = [np.zeros((0, 0), dtype=np.int8)] * len(structures)
    for size in np.unique(counts[counts > 0]).tolist():
        rows = np.flatnonzero(counts == size)
        step = max(1, PAIRS_AT_ONCE // size**2)
        for part in (rows[start : start + step] for start in range(0, len(rows), step)):
            atoms = ptr[part][:, None] + np.arange(size)
            for row, orders in zip(part.tolist(), _same_size(numbers[atoms], structures.pos[atoms]), strict=True):
                found[row] = orders
    return found


def _same_size(numbers: Int[np.ndarray, "m n"], pos: Float[np.ndarray, "m n 3"]) -> Int[np.ndarray, "m n n"]:
    shape = (*numbers.shape, numbers.shape[1])
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sqrt(((pos[:, :, None] - pos[:, None, :]) ** 2).sum(axis=-1))
    first, second = np.broadcast_to(numbers[:, :, None], shape), np.broadcast_to(numbers[:, None, :], shape)
    orders = orders_at(first, second, distance)
    diagonal = np.arange(shape[1])
    orders[:, diagonal, diagonal] = 0
    return orders


def joined(structures: Structures, orders: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All bonds of a set as flat arrays: atom, atom (flat indices, both directions of a bond), order."""
    firsts, seconds, kinds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int8)]
    for start, matrix in zip(structures.ptr[:-1].tolist(), orders, strict=True):
        i, j = np.nonzero(matrix)
        firsts.append(i + start)
        seconds.append(j + start)
        kinds.append(matrix[i, j])
    return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(kinds)
