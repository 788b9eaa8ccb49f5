"""Charge and spin of structures as files and ASE give them; where they say nothing, both are 0."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import ase
import numpy as np
from jaxtyping import Float

from geomol.errors import GeomolWarning, InputError


def charge_of_atoms(atoms: ase.Atoms, where: str) -> tuple[float, float]:
    """Charge and spin of `info`, with a warning 0 where they are no numbers; the charge is that of the initial charges
    where `info` has none.

    Raises:
        InputError: initial charges that are not finite numbers.
    """
    charge, spin = (_number(atoms.info.get(key), key, where) for key in ("charge", "spin"))
    if atoms.info.get("charge") is None and atoms.has("initial_charges"):
        try:
            charge = whole_charge(atoms.get_initial_charges().tolist())
        except ValueError:
            raise InputError("initial charges are not numbers", where=where) from None
    return charge, spin


def whole_charge(charges: Sequence[float]) -> float:
    """What the charges of all atoms add up to: a whole number, whatever the rounding of partial charges.

    Raises:
        ValueError: a charge that is not finite.
    """
    total = sum(charges)
    if not math.isfinite(total):
        raise ValueError(total)
    return float(round(total))


def none_if_zero(values: Sequence[float]) -> Float[np.ndarray, " S"] | None:
    """One value for each structure, or None where there is nothing to say."""
    return np.array(values, dtype=np.float64) if any(values) else None


def _number(value: object, key: str, where: str) -> float:
    if value is None:
        return 0.0
    numbers = np.asarray(value)
    if numbers.size != 1 or numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
        text = f"{where}: {key} is not a finite number, got {repr(value)[:60]}: ignored"
        warnings.warn(text, GeomolWarning, stacklevel=3)
        return 0.0
    return float(numbers.reshape(()))
