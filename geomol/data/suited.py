"""Structures that a model can answer for: elements it knows, atoms that are apart, and no charge in a periodic cell."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool

from geomol.data.bad_frames import announce_dropped
from geomol.data.structures import Structures
from geomol.errors import GeomolError, GeomolWarning, InputError, ModelDomainError
from geomol.graph.charges import IGNORED, check_charge, check_whole
from geomol.graph.checks import TOO_CLOSE
from geomol.graph.neighbours import find_pairs


def suited_structures(
    structures: Structures, elements: Collection[int], places: Sequence[str], *, where: str, skip_bad: bool
) -> Bool[np.ndarray, " S"]:
    """Which structures the model takes: all of them, or the first fault is raised, or with `skip_bad` announced.

    Charges and spin of molecules, which no model reads, are warned of once.

    Args:
        structures: what it is asked about.
        elements: that it knows; empty for a model that reads none.
        places: what to call each structure.
        where: what to call all of them.
        skip_bad: leave out what is at fault.

    Raises:
        InputError: atoms at one place, a charge that is not whole, or nothing without a fault.
        ModelDomainError: an element outside the model, or a charged periodic cell.
    """
    faults: dict[int, GeomolError] = {}
    charged: list[int] = []
    with warnings.catch_warnings():
        # of atoms that are only close: said where the graphs are made
        warnings.simplefilter("ignore", GeomolWarning)
        for row, place in enumerate(places):
            try:
                if _check(structures, row, elements, place):
                    charged.append(row)
            except (InputError, ModelDomainError) as error:
                if not skip_bad:
                    raise
                faults[row] = error
    if faults:
        if len(faults) == len(structures):
            raise InputError("no structures", where=where, got="only bad frames")
        announce_dropped(where, list(faults), len(structures), next(iter(faults.values())), stacklevel=3)
    if charged:
        text = f"{IGNORED}; given for {len(charged)} of {len(structures)} structures, the first: {places[charged[0]]}"
        warnings.warn(text, GeomolWarning, stacklevel=2)
    kept = np.ones(len(structures), dtype=np.bool_)
    kept[list(faults)] = False
    return kept


def _check(structures: Structures, row: int, elements: Collection[int], place: str) -> bool:
    """Raise what is wrong with a structure; whether it has a charge or spin."""
    atoms = slice(int(structures.ptr[row]), int(structures.ptr[row + 1]))
    numbers, pbc = structures.numbers[atoms], structures.pbc[row]
    unknown = np.flatnonzero(~np.isin(numbers, list(elements)))
    if elements and len(unknown):
        raise ModelDomainError(
            "element outside the model",
            where=f"{place}, atom {unknown[0]}",
            expected=f"one of {', '.join(chemical_symbols[z] for z in elements)}",
            got=chemical_symbols[numbers[unknown[0]]],
            remedy="use a model trained on it",
        )
    find_pairs(structures.pos[atoms], structures.cell[row], pbc, TOO_CLOSE, where=place)
    charge, spin = (0.0 if values is None else float(values[row]) for values in (structures.charge, structures.spin))
    check_whole(charge, place)
    return check_charge(charge, spin, periodic=bool(pbc.any()), where=place)
