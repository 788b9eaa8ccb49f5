"""Relaxation of positions, and of the cell with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE

from geomol.errors import ConfigError, InputError, OutputError
from geomol.md.calculator import calculator_for


@dataclass(frozen=True)
class RelaxResult:
    """Outcome of a relaxation.

    Attributes:
        atoms: the relaxed structure, with its calculator.
        converged: whether the largest force (with the cell: also the generalised force on the cell, in eV/Å as ASE
            defines it) fell below the limit.
        steps: optimiser steps taken.
        energy: final energy, eV.
        fmax: largest force at the end, eV/Å.
    """

    atoms: Atoms
    converged: bool
    steps: int
    energy: float
    fmax: float


def relax(
    atoms: Atoms,
    calculator: Any,
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool = False,
    *,
    optimiser: Literal["bfgs", "fire"] = "bfgs",
    trajectory: str | Path | None = None,
) -> RelaxResult:
    """Move the atoms downhill until no force exceeds `fmax`, with ASE's optimisers.

    Args:
        atoms: start; not modified.
        calculator: any ASE calculator, a potential, or the path or name of one.
        fmax: limit of the largest force on an atom, eV/Å.
        steps: most optimiser steps; reaching it is not an error, see `converged`.
        cell: relax the lattice vectors too (`FrechetCellFilter`), at zero pressure.
        optimiser: `bfgs` (few steps) or `fire` (robust far from the minimum).
        trajectory: file for all steps (ASE `.traj`).

    Raises:
        ConfigError: fmax or steps out of range, an unknown optimiser, or a cell asked of a molecule.
        InputError: forces that are not finite.
        OutputError: the trajectory cannot be written.
    """
    if not fmax > 0 or not np.isfinite(fmax):
        raise ConfigError("fmax must be positive", expected="a force in eV/Å", got=repr(fmax))
    if steps < 0:
        raise ConfigError("the number of steps must not be negative", got=repr(steps))
    if optimiser not in ("bfgs", "fire"):
        raise ConfigError("unknown optimiser", expected='"bfgs" or "fire"', got=repr(optimiser))
    if cell and (not atoms.pbc.any() or atoms.cell.rank < 3):
        raise ConfigError("a cell can only be relaxed where there is one", got=f"pbc {atoms.pbc.tolist()}")
    atoms = atoms.copy()
    atoms.calc = calculator_for(calculator)
    if not np.isfinite(atoms.get_forces()).all():
        raise InputError("the forces at the start are not finite")
    converged, taken = _descend(atoms, fmax, steps, cell, optimiser, trajectory)
    largest = float(np.sqrt((atoms.get_forces() ** 2).sum(axis=1).max()))
    return RelaxResult(atoms, converged, taken, float(atoms.get_potential_energy()), largest)


def _descend(
    atoms: Atoms, fmax: float, steps: int, cell: bool, optimiser: str, trajectory: str | Path | None
) -> tuple[bool, int]:
    target = FrechetCellFilter(atoms) if cell else atoms
    path = None if trajectory is None else str(trajectory)
    try:
        with (BFGS if optimiser == "bfgs" else FIRE)(target, logfile=None, trajectory=path) as search:
            converged = bool(search.run(fmax=fmax, steps=steps))
            return converged, int(search.nsteps)
    except OSError as error:
        raise OutputError("cannot write the trajectory", where=path, got=error.strerror or str(error)) from error
