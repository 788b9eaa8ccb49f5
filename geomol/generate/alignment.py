"""Two geometries of one molecule: their distance after superposition, and whether the same atoms are joined."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii
from jaxtyping import Bool, Float, Int

from geomol.data import BOND_LENGTHS_PM
from geomol.generate.bonds import orders_at

# Distances in units of the sum of covalent radii (ASE's, Cordero 2008). A pair is joined below the first. It counts as
# newly joined or broken only when it crosses both: in the cages of QM9, pairs across a ring lie between the two
# (C–C 1.82 and 1.98 Å), and one limit alone would take a shift by 0.01 Å for a change of bonds.
JOINED_WITHIN = 1.2
APART_BEYOND = 1.3


def best_rotation(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3 3"]:
    """R, a rotation and no reflection, such that a R lies on b as well as it can; both centred. Kabsch 1976."""
    u, _, vt = np.linalg.svd(a.T @ b)
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)


def kabsch_rmsd(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> float:
    """Root-mean-square distance of two sets of points after the best translation and rotation, Å; no reflection.

    Kabsch, Acta Cryst. A 32 (1976) 922: from the singular values of the covariance, the last with the sign of its
    determinant. NaN without points.
    """
    if not len(a):
        return float("nan")
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    turn = best_rotation(a, b)
    # from the points themselves: the difference of traces would lose half of the digits
    return float(np.sqrt(((a @ turn - b) ** 2).sum(axis=1).mean()))


def bonded(numbers: Int[np.ndarray, " n"], pos: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n n"]:
    """Which atoms are joined: nearer than 1.2 times the sum of their covalent radii."""
    return np.asarray((_in_radii(numbers, pos) < JOINED_WITHIN) & ~np.eye(len(numbers), dtype=bool))


def same_bonds(
    numbers: Int[np.ndarray, " n"], before: Float[np.ndarray, "n 3"], after: Float[np.ndarray, "n 3"]
) -> bool:
    """Whether no bond was broken (from below 1.2 to above 1.3 sums of covalent radii) and none formed (the reverse)."""
    near, far = np.sort([_in_radii(numbers, before), _in_radii(numbers, after)], axis=0)
    return not bool(((near < JOINED_WITHIN) & (far > APART_BEYOND)).any())


def _in_radii(numbers: np.ndarray, pos: np.ndarray) -> np.ndarray:
    radii = covalent_radii[numbers]
    return np.asarray(np.linalg.norm(pos[:, None] - pos, axis=-1) / (radii[:, None] + radii))


def edm_orders(numbers: Int[np.ndarray, " n"], pos: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n n"] | None:
    """Bond orders by the distance tables of EDM; None for a molecule with an element that they do not know."""
    if not set(numbers.tolist()) <= {z for pair in BOND_LENGTHS_PM for z in pair}:
        return None
    distance = np.linalg.norm(pos[:, None] - pos, axis=-1)
    first, second = np.broadcast_arrays(numbers[:, None], numbers)
    orders = orders_at(first, second, distance)
    np.fill_diagonal(orders, 0)
    return orders
