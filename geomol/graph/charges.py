"""Charge and spin, which no model of geomol reads: where they are refused, and what is said where they are ignored."""

from __future__ import annotations

from geomol.errors import ModelDomainError

IGNORED = "charges and spin are ignored: this model does not depend on them"


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
