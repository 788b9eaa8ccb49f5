"""What a structure must satisfy before neighbours are sought: the bad input is named, never repaired."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from geomol.errors import ConfigError, GeomolWarning, InputError

AXES = "xyz"
COINCIDENT = 1e-6  # Å; two atoms nearer than this are one atom given twice
TOO_CLOSE = 0.4  # Å; shorter than any chemical bond (H2: 0.74 Å)
MIN_VOLUME = 1e-6  # Å³
MIN_HEIGHT = 1e-9  # a cell vector this flat, relative to its length, is a combination of the others
MAX_POSITION = 1e9  # Å; beyond it float64 cannot resolve 1e-6 Å


def check_cutoff(cutoff: object) -> float:
    """The cutoff as a float.

    Raises:
        ConfigError: if it is not a positive, finite number.
    """
    if isinstance(cutoff, bool) or not isinstance(cutoff, int | float | np.integer | np.floating):
        raise ConfigError("cutoff is not a number", expected="a positive distance in Å", got=repr(cutoff))
    value = float(cutoff)
    if not (math.isfinite(value) and value > 0):
        raise ConfigError("cutoff out of range", expected="a positive, finite distance in Å", got=repr(value))
    return value


def check_positions(pos: NDArray[np.float64], where: str | None = None) -> None:
    """Every position a number that float64 resolves.

    Raises:
        InputError: naming atom and axis, or that there are no atoms.
    """
    if pos.ndim != 2 or pos.shape[1] != 3:
        raise InputError("positions have a wrong shape", where=where, expected="(N, 3)", got=str(pos.shape))
    if pos.shape[0] == 0:
        raise InputError("structure has zero atoms", where=where, expected="at least one atom")
    good = np.abs(pos) <= MAX_POSITION  # False for NaN
    if not good.all():
        atom, axis = np.argwhere(~good)[0]
        raise InputError(
            f"position of atom {atom} along {AXES[axis]} is not usable",
            where=where,
            expected=f"a finite number of Å, at most {MAX_POSITION:g}",
            got=repr(float(pos[atom, axis])),
        )


def check_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_], where: str | None = None) -> None:
    """Periodic cell vectors finite, non-zero and independent of each other.

    Raises:
        InputError: naming the axis.
    """
    if cell.shape != (3, 3) or pbc.shape != (3,):
        got = f"{cell.shape} and {pbc.shape}"
        raise InputError("cell or pbc has a wrong shape", where=where, expected="(3, 3) and (3,)", got=got)
    finite = np.isfinite(cell)
    if not finite.all():
        row, axis = np.argwhere(~finite)[0]
        got = repr(float(cell[row, axis]))
        raise InputError(f"cell vector {row} is not finite along {AXES[axis]}", where=where, got=got)
    if not pbc.any():
        return
    for row in np.flatnonzero(pbc):
        if not cell[row].any():
            remedy = "give a cell, or set pbc to False on that axis"
            raise InputError(f"axis {row} is periodic but its cell vector is zero", where=where, remedy=remedy)
    full = complete_cell(cell, pbc)
    for row in np.flatnonzero(pbc):
        a, b = full[row - 2], full[row - 1]
        normal = np.cross(a, b)
        area = np.linalg.norm(a) * np.linalg.norm(b)
        height = abs(full[row] @ normal)
        if height <= MIN_HEIGHT * area * np.linalg.norm(full[row]):
            raise InputError(
                f"axis {row} is periodic but the cell is singular: its vector depends on the others",
                where=where,
                expected="linearly independent cell vectors",
                got=str(cell.tolist()),
            )
    volume = abs(float(np.linalg.det(full)))
    if volume < MIN_VOLUME:
        raise InputError(
            "cell has no volume", where=where, expected=f"|volume| >= {MIN_VOLUME:g} Å³", got=f"{volume:g}"
        )


def complete_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell with each open direction replaced by a unit vector normal to the periodic ones."""
    full = np.where(pbc[:, None], cell, 0.0)
    if pbc.all():
        return full
    # the last right singular vectors span what the periodic rows do not reach
    normals = np.linalg.svd(full)[2][::-1]
    for k, row in enumerate(np.flatnonzero(~pbc)):
        full[row] = normals[k]
    return full


def check_closest(distance: float, i: int, j: int, where: str | None = None) -> None:
    """The nearest pair of a structure: refused if coincident, warned of if no bond is as short.

    Raises:
        InputError: if two atoms coincide, with both indices.
    """
    pair = f"atoms {i} and {j}" if i != j else f"atom {i} and its own periodic image"
    if distance < COINCIDENT:
        expected = f"distinct atoms at least {COINCIDENT:g} Å apart"
        raise InputError(f"{pair} coincide", where=where, expected=expected, got=f"{distance:.3g} Å")
    if distance < TOO_CLOSE:
        # no distance in the text: along a trajectory Python shows an unchanged warning once
        text = f"{pair} are closer than {TOO_CLOSE:g} Å"
        warnings.warn(text if where is None else f"{where}: {text}", GeomolWarning, stacklevel=4)
