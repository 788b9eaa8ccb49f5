"""Files that say what is asked for: fragments to build around, molecules to look around."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geomol.errors import ConfigError, InputError
from geomol.generate.molecules import Molecules
from geomol.generate.read import read_molecules
from geomol.generate.request import Lead, Scaffold


def read_scaffold(path: str | Path, *, index: int = 0, remove: tuple[int, ...] = ()) -> Scaffold:
    """A fragment, or several (a linker grows between them): the atoms of one record of a file.

    Args:
        path: .sdf, .xyz, .extxyz or .npz; or a data set by name.
        index: which record.
        remove: atoms (from 0) that are taken off, such as the hydrogen where a group shall grow.

    Raises:
        ConfigError: no such record or atom. InputError: nothing is left.
    """
    molecules, row = _record(path, index)
    numbers, pos = molecules.numbers(row), molecules.pos(row)
    strange = [i for i in remove if not 0 <= i < len(numbers)]
    if strange:
        raise ConfigError(
            "no such atom in the scaffold", where=str(path), expected=f"0 to {len(numbers) - 1}", got=str(strange[0])
        )
    kept = np.setdiff1d(np.arange(len(numbers)), remove)
    if not len(kept):
        raise InputError("the scaffold has no atoms", where=str(path))
    return Scaffold(numbers[kept], pos[kept], Path(path).name)


def read_lead(path: str | Path, *, index: int = 0, level: float) -> Lead:
    """A molecule to look around, with noise of `level` Å.

    Raises:
        ConfigError: no such record, or a level that is not positive. InputError: a record without atoms.
    """
    if not 0 < level < float("inf"):
        raise ConfigError("the noise added to a molecule must be positive and finite (Å)", got=str(level))
    molecules, row = _record(path, index)
    if not len(molecules.numbers(row)):
        raise InputError("a molecule without atoms", where=f"{path}, record {index}")
    return Lead(molecules.numbers(row), molecules.pos(row), level)


def _record(path: str | Path, index: int) -> tuple[Molecules, int]:
    molecules = read_molecules(path)
    if not -len(molecules) <= index < len(molecules):
        raise ConfigError("no such record", where=str(path), expected=f"0 to {len(molecules) - 1}", got=str(index))
    row = range(len(molecules))[index]
    if row in molecules.faults:
        raise InputError(molecules.faults[row], where=f"{path}, record {index}")
    return molecules, row
