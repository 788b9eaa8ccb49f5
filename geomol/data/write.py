"""Writer of extended xyz that ASE and geomol read back: structures with labels, in eV, eV/Å and eV/Å³."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms, FixCartesian
from ase.data import chemical_symbols
from ase.io.extxyz import key_val_dict_to_str
from jaxtyping import Bool

from geomol.data.structures import Structures
from geomol.errors import InputError, OutputError

_RESERVED = {"Lattice", "Properties", "pbc", "virial", *all_properties}


def write_extxyz(path: str | Path, structures: Structures, frames: Sequence[Atoms] | None = None) -> Path:
    """Write all structures; the file appears under its name only when it is complete.

    Numbers carry 17 significant digits for energies and cells and 10 decimals for positions and forces. To write
    predictions, put them in the labels: `dataclasses.replace(structures, energy=…, forces=…)`.

    Args:
        path: the file.
        structures: what to write.
        frames: the same structures, whose info, masses, tags and fixed atoms (`FixAtoms`, `FixCartesian`) are written
            too. Other constraints have no place in the format.

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
                file.writelines(_frame_lines(structures, i, None if frames is None else frames[i]))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError("cannot write", where=str(path), got=error.strerror or str(error)) from error
    return path


def _frame_lines(structures: Structures, i: int, extras: Atoms | None) -> Iterator[str]:
    rows = slice(int(structures.ptr[i]), int(structures.ptr[i + 1]))
    columns = [structures.pos[rows]]
    properties = "species:S:1:pos:R:3"
    if structures.forces is not None and not np.isnan(structures.forces[rows]).any():
        columns.append(structures.forces[rows])
        properties += ":forces:R:3"
    further, ends = ("", [""] * (rows.stop - rows.start)) if extras is None else extra_columns(extras)
    properties += further
    pairs = [f"Properties={properties}"]
    if structures.cell[i].any():
        pairs.insert(0, f'Lattice="{_numbers(structures.cell[i])}"')
    if structures.energy is not None and not np.isnan(structures.energy[i]):
        pairs.append(f"energy={structures.energy[i]:.17g}")
    if structures.stress is not None and not np.isnan(structures.stress[i]).any():
        pairs.append(f'stress="{_numbers(structures.stress[i])}"')
    for key in ("charge", "spin") if extras is None else ():
        values = getattr(structures, key)
        if values is not None and values[i]:
            pairs.append(f"{key}={values[i]:g}")
    if extras is not None and (info := _info_pairs(extras)):
        pairs.append(info)
    flags = " ".join("T" if flag else "F" for flag in structures.pbc[i])
    yield f'{rows.stop - rows.start}\n{" ".join(pairs)} pbc="{flags}"\n'
    values = np.concatenate(columns, axis=1)
    for number, row, end in zip(structures.numbers[rows], values, ends, strict=True):
        yield f"{chemical_symbols[number]:<2} " + " ".join(f"{value:16.10f}" for value in row) + f"{end}\n"


def extra_columns(atoms: Atoms) -> tuple[str, list[str]]:
    """Masses, tags and fixed atoms: their entry in `Properties`, and the text for each atom."""
    properties, columns = "", []
    if atoms.has("masses"):
        properties += ":masses:R:1"
        columns.append([f" {mass:.17g}" for mass in atoms.get_masses()])
    if atoms.has("tags"):
        properties += ":tags:I:1"
        columns.append([f" {tag}" for tag in atoms.get_tags()])
    moves = _move_mask(atoms)
    if not moves.all():
        is_whole = bool((moves == moves[:, :1]).all())
        properties += ":move_mask:L:1" if is_whole else ":move_mask:L:3"
        flags = [row[:1] if is_whole else row for row in moves]
        columns.append(["".join(" T" if flag else " F" for flag in row) for row in flags])
    return properties, ["".join(parts) for parts in zip(*columns, strict=True)] if columns else [""] * len(atoms)


def _move_mask(atoms: Atoms) -> Bool[np.ndarray, "N 3"]:
    """Along which axes each atom may move."""
    moves = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            moves[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            moves[constraint.index] &= ~np.asarray(constraint.mask, dtype=bool)
    return moves


def _info_pairs(atoms: Atoms) -> str:
    """The info of a structure as pairs; names that mean labels or the cell are left to these."""
    return str(key_val_dict_to_str({key: value for key, value in atoms.info.items() if key not in _RESERVED}))


def _numbers(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in matrix.reshape(-1))
