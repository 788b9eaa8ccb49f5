"""Charge and spin, which no model of geomol reads: where they are refused, and what is said where they are ignored."""

from __future__ import annotations

import numpy as np

from geomol.errors import InputError, ModelDomainError

IGNORED = "charges and spin are ignored: this model does not depend on them"


def check_whole(charge: object, where: str | None = None) -> None:
    """The charge of a structure is a whole number; 2.0 is one, and None is none given.

    Raises:
        InputError: it is not.
    """
    value = charge[()] if isinstance(charge, np.ndarray) and charge.ndim == 0 else charge
    is_whole = isinstance(value, int | float | np.integer | np.floating) and float(value).is_integer()
    if value is not None and not is_whole:
        expected = "elementary charges"
        raise InputError("the charge is not a whole number", where=where, expected=expected, got=repr(charge))


def check_charge(charge: float | None, spin: float | None, *, periodic: bool, where: str | None = None) -> bool:
    """Whether a structure has a charge or unpaired electrons, which is then to be warned of.

    Args:
        charge: of the whole structure, in elementary charges; None: not given.
        spin: its multiplicity, or its number of unpaired electrons; 0 and 1 are singlets. None: not given.
        periodic: along any axis.
        where: which structure this is.

    Raises:
        ModelDomainError: a charged periodic cell.
    """
    if periodic and charge not in (None, 0):
        raise ModelDomainError(
            "this model knows nothing of charges, and a charged periodic cell has no defined energy",
            where=where,
            got=f"charge {charge:g}",
            remedy="use a neutral cell",
        )
    return charge not in (None, 0) or spin not in (None, 0, 1)
