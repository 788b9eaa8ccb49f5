"""Writer of extended xyz that ASE and geomol read back: structures with labels, in eV, eV/Å and eV/Å³."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from geomol.data.structures import Structures
from geomol.errors import InputError, OutputError


def write_extxyz(path: str | Path, structures: Structures) -> Path:
    """Write all structures; the file appears under its name only when it is complete.

    Numbers carry 17 significant digits for energies and cells and 10 decimals for positions and forces. To write
    predictions, put them in the labels: `dataclasses.replace(structures, energy=…, forces=…)`.

    Raises:
        InputError: an element that has no symbol.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if len(structures.numbers) and not 1 <= structures.numbers.min() <= structures.numbers.max() < len(
        chemical_symbols
    ):
        raise InputError("a number is no element", where=structures.name, expected=f"1 to {len(chemical_symbols) - 1}")
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for i in range(len(structures)):
                file.writelines(_frame_lines(structures, i))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError("cannot write", where=str(path), got=error.strerror or str(error)) from error
    return path


def _frame_lines(structures: Structures, i: int) -> Iterator[str]:
    rows = slice(int(structures.ptr[i]), int(structures.ptr[i + 1]))
    columns = [structures.pos[rows]]
    properties = "species:S:1:pos:R:3"
    if structures.forces is not None and not np.isnan(structures.forces[rows]).any():
        columns.append(structures.forces[rows])
        properties += ":forces:R:3"
    pairs = [f"Properties={properties}"]
    if structures.cell[i].any():
        pairs.insert(0, f'Lattice="{_numbers(structures.cell[i])}"')
    if structures.energy is not None and not np.isnan(structures.energy[i]):
        pairs.append(f"energy={structures.energy[i]:.17g}")
    if structures.stress is not None and not np.isnan(structures.stress[i]).any():
        pairs.append(f'stress="{_numbers(structures.stress[i])}"')
    flags = " ".join("T" if flag else "F" for flag in structures.pbc[i])
    yield f'{rows.stop - rows.start}\n{" ".join(pairs)} pbc="{flags}"\n'
    values = np.concatenate(columns, axis=1)
    for number, row in zip(structures.numbers[rows], values, strict=True):
        yield f"{chemical_symbols[number]:<2} " + " ".join(f"{value:16.10f}" for value in row) + "\n"


def _numbers(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in matrix.reshape(-1))
