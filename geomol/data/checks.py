"""What no structure may have, whatever file it came from: checked once, on flat arrays, before use."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool, Float

from geomol.data.structures import Structures
from geomol.errors import InputError

MIN_VOLUME = 1e-6  # Å³; also the least area or length of the lattice vectors that are in use
AXES = ("a", "b", "c")


def cell_fault(cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"]) -> tuple[str, str] | None:
    """Why a cell cannot be used, as (fault, value found), or None.

    A periodic axis needs a lattice vector, and all lattice vectors that are given must be independent. Left-handed
    cells and zero vectors along open directions are fine.
    """
    if not np.isfinite(cell).all():
        row, column = np.argwhere(~np.isfinite(cell))[0]
        return f"cell vector {AXES[row]} has no finite {'xyz'[column]} component", f"{cell[row, column]}"
    lengths = np.linalg.norm(cell, axis=1)
    for axis in np.flatnonzero(pbc):
        if lengths[axis] == 0:
            return f"periodic along {AXES[axis]} but the cell vector {AXES[axis]} is zero", f"pbc {_flags(pbc)}"
    used = np.flatnonzero(lengths > 0)
    if not len(used):
        return None
    gram = cell[used] @ cell[used].T
    volume = float(np.sqrt(max(np.linalg.det(gram), 0.0)))
    if volume >= MIN_VOLUME and volume >= 1e-10 * float(np.prod(lengths[used])):
        return None
    names = " and ".join(AXES[axis] for axis in used)
    return f"singular cell: vectors {names} span no volume", f"{volume:g} Å^{len(used)}"


def first_fault(structures: Structures, *, may_lack: Collection[str]) -> tuple[int, InputError] | None:
    """The first structure that cannot be used and why; None where all are sound.

    Args:
        may_lack: labels of which NaN throughout a structure means "no label" rather than a fault.
    """
    bad = bad_structures(structures, may_lack=may_lack)
    if not bad.any():
        return None
    row = int(np.flatnonzero(bad)[0])
    return row, _explain(structures, row, may_lack=may_lack)


def check_structures(structures: Structures, *, may_lack: Collection[str] = ()) -> None:
    """Raise InputError for the first structure with a value that is not finite, no element or a bad cell."""
    fault = first_fault(structures, may_lack=may_lack)
    if fault is not None:
        raise fault[1]


def bad_structures(structures: Structures, *, may_lack: Collection[str]) -> Bool[np.ndarray, " S"]:
    """Which structures hold a value that is not finite, no element, no atom or an unusable cell."""
    bad: np.ndarray = structures.n_atoms == 0
    bad_atoms = ~np.isfinite(structures.pos).all(axis=1)
    bad_atoms |= (structures.numbers < 1) | (structures.numbers >= len(chemical_symbols))
    owner = np.repeat(np.arange(len(structures)), structures.n_atoms)
    bad[owner[bad_atoms]] = True
    for key in ("energy", "forces", "stress"):
        values = getattr(structures, key)
        if values is None:
            continue
        faulty = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        rows = np.unique(owner[faulty]) if key == "forces" else np.flatnonzero(faulty)
        bad[[row for row in rows if not (key in may_lack and _all_nan(structures, key, int(row)))]] = True
    for i in np.flatnonzero(structures.pbc.any(axis=1) | (structures.cell != 0).any(axis=(1, 2))):
        bad[i] |= cell_fault(structures.cell[i], structures.pbc[i]) is not None
    return bad


def _explain(structures: Structures, row: int, *, may_lack: Collection[str]) -> InputError:
    where = f"{structures.name}, frame {row}"
    atoms = slice(int(structures.ptr[row]), int(structures.ptr[row + 1]))
    if atoms.start == atoms.stop:
        return InputError("no atoms", where=where, expected="at least one atom")
    for key, values, axes in (("position", structures.pos[atoms], "xyz"), ("number", structures.numbers[atoms], "")):
        faulty = ~np.isfinite(values) if axes else (values < 1) | (values >= len(chemical_symbols))
        if faulty.any():
            place = np.argwhere(faulty)[0]
            axis = f", axis {axes[place[1]]}" if axes else ""
            expected = "a finite position" if axes else f"an atomic number from 1 to {len(chemical_symbols) - 1}"
            return InputError(
                f"bad {key}", where=f"{where}, atom {place[0]}{axis}", expected=expected, got=str(values[tuple(place)])
            )
    fault = cell_fault(structures.cell[row], structures.pbc[row])
    if fault is not None:
        return InputError(fault[0], where=where, got=fault[1])
    for key in ("energy", "forces", "stress"):
        values = getattr(structures, key)
        if values is None or (key in may_lack and _all_nan(structures, key, row)):
            continue
        block = np.atleast_1d(values[atoms] if key == "forces" else values[row])
        if not np.isfinite(block).all():
            place = np.argwhere(~np.isfinite(block))[0]
            at = f", atom {place[0]}, axis {'xyz'[place[1]]}" if key == "forces" else ""
            return InputError(
                f"{key} is not finite",
                where=where + at,
                got=str(block[tuple(place)]),
                remedy="skip_bad drops such frames",
            )
    raise AssertionError(f"no fault in structure {row}")


def _all_nan(structures: Structures, key: str, row: int) -> bool:
    values = getattr(structures, key)
    block = values[structures.ptr[row] : structures.ptr[row + 1]] if key == "forces" else values[row]
    return bool(np.isnan(block).all())


def _flags(pbc: Bool[np.ndarray, " 3"]) -> str:
    return " ".join("T" if flag else "F" for flag in pbc)
