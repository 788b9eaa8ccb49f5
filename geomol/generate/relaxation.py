"""What becomes of a molecule that is relaxed: the record, its limits, and the bookkeeping of failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.calculators.calculator import CalculatorError
from jaxtyping import Float, Int

from geomol.data.units import KCAL_PER_MOL
from geomol.errors import ConfigError, GeomolError, InputError
from geomol.generate.alignment import edm_orders, kabsch_rmsd, same_bonds

NAN = float("nan")
# What may go wrong with one molecule; anything else is a fault of the program and is raised.
FAILURES = (CalculatorError, GeomolError, RuntimeError, ValueError, ArithmeticError)


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        fmax: converged when no force exceeds this, eV/Å (MMFF94 has RDKit's own criterion).
        steps: most optimiser steps per molecule.
        seconds: most wall-clock time per molecule; looked at between steps.
    """

    fmax: float = 0.01
    steps: int = 500
    seconds: float = 120.0

    def __post_init__(self) -> None:
        if not (self.fmax > 0 and self.steps > 0 and self.seconds > 0):
            raise ConfigError("limits of a relaxation must be positive", got=repr(self))


@dataclass(frozen=True, eq=False)
class Relaxation:
    """What became of one molecule.

    Attributes:
        method: "MMFF94", "GFN2-xTB" or "potential".
        numbers: atomic numbers.
        before: positions as given, Å.
        after: positions reached, Å; where it broke off, the last ones with an energy; None if there are none.
        energy_before, energy_after: by the method, of `before` and `after`, eV; NaN where it has none.
        converged: whether the criterion was met within the limits.
        steps: optimiser steps taken.
        seconds: wall-clock time.
        rmsd, heavy_rmsd: between `before` and `after` laid over each other by rotation (no reflection), over all atoms
            and over the heavy atoms alone, Å; NaN without `after` or without heavy atoms.
        bonds_kept: whether no bond broke and none formed, by `same_bonds`; None without `after`.
        edm_orders_kept: whether the distance tables of EDM, which are far narrower, give the same bond orders; None
            without `after` or for an element they do not know.
        failure: why it did not converge; None if it did.
    """

    method: str
    numbers: Int[np.ndarray, " n"]
    before: Float[np.ndarray, "n 3"]
    after: Float[np.ndarray, "n 3"] | None
    energy_before: float
    energy_after: float
    converged: bool
    steps: int
    seconds: float
    rmsd: float
    heavy_rmsd: float
    bonds_kept: bool | None
    edm_orders_kept: bool | None
    failure: str | None

    @property
    def strain(self) -> float:
        """Energy released, eV; of a relaxation that did not converge only a lower bound."""
        return self.energy_before - self.energy_after

    @property
    def strain_kcal_per_mol(self) -> float:
        """As `strain`, kcal/mol."""
        return self.strain / KCAL_PER_MOL

    def figures(self) -> dict[str, float]:
        """Numbers by name, with units; for the data fields of a file."""
        energies = {"energy_before": self.energy_before, "energy_after": self.energy_after, "strain": self.strain}
        found = {f"{name}_eV": value for name, value in energies.items()}
        found |= {f"{name}_kcal_per_mol": value / KCAL_PER_MOL for name, value in energies.items()}
        found |= {"rmsd_A": self.rmsd, "heavy_rmsd_A": self.heavy_rmsd}
        return found | {"converged": float(self.converged), "steps": float(self.steps), "seconds": self.seconds}


@dataclass
class Progress:
    """The furthest that a relaxation got, so that a failure loses nothing; filled by the method as it goes."""

    pos: np.ndarray | None = None
    energy_before: float = NAN  # eV
    energy: float = NAN  # eV
    steps: int = 0
    converged: bool = False


def recorded(
    method: str,
    numbers: Int[np.ndarray, " n"],
    pos: Float[np.ndarray, "n 3"],
    run: Callable[[Progress, float], None],
    limits: Limits,
) -> Relaxation:
    """Run a relaxation and put down what came of it, errors included.

    Args:
        method: its name.
        numbers, pos: the molecule; not modified.
        run: takes the progress to fill and the time (`time.monotonic`) at which to stop.
        limits: those that `run` keeps.
    """
    progress, start, failure = Progress(), time.monotonic(), None
    try:
        if not len(numbers):
            raise InputError("the molecule has no atoms")
        if not np.isfinite(pos).all():
            raise InputError("a position is not a finite number")
        run(progress, start + limits.seconds)
    except FAILURES as error:
        failure, progress.converged = " ".join(str(error).split()) or type(error).__name__, False
    seconds = time.monotonic() - start
    if failure is None and not progress.converged:
        out_of_steps = progress.steps >= limits.steps
        failure = f"not converged in {limits.steps} steps" if out_of_steps else f"not converged in {limits.seconds:g} s"
    return _record(method, numbers, pos, progress, seconds, failure)


def _record(
    method: str, numbers: np.ndarray, pos: np.ndarray, progress: Progress, seconds: float, failure: str | None
) -> Relaxation:
    after, heavy = progress.pos, numbers > 1
    first = edm_orders(numbers, pos)
    last = None if after is None else edm_orders(numbers, after)
    return Relaxation(
        method=method,
        numbers=numbers.copy(),
        before=pos.copy(),
        after=after,
        energy_before=progress.energy_before,
        energy_after=progress.energy,
        converged=progress.converged,
        steps=progress.steps,
        seconds=seconds,
        rmsd=NAN if after is None else kabsch_rmsd(pos, after),
        heavy_rmsd=NAN if after is None else kabsch_rmsd(pos[heavy], after[heavy]),
        bonds_kept=None if after is None else same_bonds(numbers, pos, after),
        edm_orders_kept=None if first is None or last is None else bool(np.array_equal(first, last)),
        failure=failure,
    )
