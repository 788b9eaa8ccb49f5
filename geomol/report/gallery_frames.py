"""Positions for the gallery as integers: relaxed molecules and the ways from noise, with the bonds of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from geomol.data import Structures
from geomol.generate.alignment import best_rotation
from geomol.generate.bonds import edm_bonds
from geomol.generate.molecules import Molecules, structures_of
from geomol.report.trajectory import SCALE

Frames = tuple[np.ndarray, np.ndarray]  # positions (T, n, 3) in Å and atomic numbers (T, n)

MAX_FRAMES, MIN_FRAMES = 60, 10  # of one denoising trajectory
MAX_FRAME_BYTES = 3_000_000  # of all of them together
BYTES_PER_ATOM = 32  # of a frame: three coordinates, the element, a bond
FAR_AWAY = 1e5  # Å; a position beyond is as good as none

Places = Callable[[np.ndarray], list[int]]  # places of atomic numbers in the page's list of symbols


def coordinates(pos: Float[np.ndarray, "n 3"]) -> list[int] | None:
    """Integers in units of SCALE; None where a position is not finite or absurdly far away."""
    if not np.isfinite(pos).all() or (np.abs(pos) > FAR_AWAY).any():
        return None
    return [int(value) for value in np.rint(pos / SCALE).ravel()]


def bond_list(orders: Int[np.ndarray, "n n"]) -> list[int]:
    """Atom, atom, order of each bond, one after the other."""
    i, j = np.nonzero(np.triu(orders, 1))
    return [int(value) for value in np.stack([i, j, orders[i, j]], axis=1).ravel()]


def relaxed_frames(
    molecules: Molecules, relaxed: Structures | None
) -> tuple[list[dict[str, Any] | None] | None, list[float]]:
    """Relaxed positions turned onto those generated, bonds where the tables of EDM see others, and the RMSD."""
    if relaxed is None:
        return None, []
    before, after = edm_bonds(molecules.structures), edm_bonds(relaxed)
    found: list[dict[str, Any] | None] = []
    moved = []
    for i in range(len(molecules)):
        pos, new = molecules.pos(i), relaxed.pos[relaxed.ptr[i] : relaxed.ptr[i + 1]]
        if coordinates(pos) is None or coordinates(new) is None or not len(pos):
            found.append(None)
            moved.append(math.nan)
            continue
        new = superposed(new, pos)
        moved.append(round(float(np.sqrt(((new - pos) ** 2).sum(axis=1).mean())), 4))
        entry: dict[str, Any] = {"x": coordinates(new)}
        if not np.array_equal(before[i], after[i]):
            entry["b"] = bond_list(after[i])
        found.append(entry)
    return found, moved


def superposed(pos: Float[np.ndarray, "n 3"], onto: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Moved and turned, not mirrored, to lie on other positions as well as it can (Kabsch, Acta Cryst. A 32, 1976)."""
    centre, target = pos.mean(axis=0), onto.mean(axis=0)
    return np.asarray((pos - centre) @ best_rotation(pos - centre, onto - target) + target)


def trajectory_frames(given: Mapping[int, Frames], symbols: Places) -> tuple[dict[str, Any], int]:
    """Frames by molecule, thinned to the budget, and how many trajectories found no room."""
    per_frame = sum(pos.shape[1] for pos, _ in given.values()) * BYTES_PER_ATOM
    share = MAX_FRAME_BYTES // per_frame if per_frame else MAX_FRAMES
    most = min(MAX_FRAMES, max(MIN_FRAMES, share))
    found: dict[str, Any] = {}
    spent = 0
    for i, (pos, numbers) in sorted(given.items()):
        index = sorted({round(t) for t in np.linspace(0, len(pos) - 1, min(most, len(pos)))})
        spent += len(index) * pos.shape[1] * BYTES_PER_ATOM
        if spent <= MAX_FRAME_BYTES:
            found[str(i)] = _frames(pos[index], numbers[index], index, len(pos), symbols)
    return found, len(given) - len(found)


def _frames(pos: np.ndarray, numbers: np.ndarray, index: list[int], total: int, symbols: Places) -> dict[str, Any]:
    """Each frame centred on its mean position."""
    centred = pos - pos.mean(axis=1, keepdims=True)
    bonds = edm_bonds(structures_of(list(numbers), list(centred), name="frames"))
    return {
        "z": [symbols(row) for row in numbers],
        "x": [coordinates(frame) for frame in centred],
        "b": [bond_list(orders) for orders in bonds],
        "index": index,
        "total": total,
    }
