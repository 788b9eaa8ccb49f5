"""The atom lines of one xyz frame: converted as a block, and looked at line by line where that fails."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int

from geomol.data.extxyz_header import Column, Header, strict_float
from geomol.errors import InputError

_NUMBERS = {symbol: number for symbol, number in atomic_numbers.items() if number > 0}


@dataclass(frozen=True)
class AtomBlock:
    """Numbers, positions (file units) and forces of one frame."""

    numbers: Int[np.ndarray, " N"]
    pos: Float[np.ndarray, "N 3"]
    forces: Float[np.ndarray, "N 3"] | None
    forces_key: str | None


def read_atoms(lines: list[str], header: Header, where: str, *, first_line: int, forces_key: str | None) -> AtomBlock:
    """Convert the atom lines of a frame.

    Raises:
        InputError: too few or too many columns, an unknown element, or a number that cannot be read or is not finite,
            each with its line, atom and axis; forces that are not three real columns.
    """
    key = forces_key or next((name for name in ("forces", "force") if name in header.columns), None)
    forces_column = header.columns.get(key) if key else None
    if forces_column is not None and (forces_column.kind, forces_column.width) != ("R", 3):
        got = f"({len(lines)}, {forces_column.width}) of kind {forces_column.kind}"
        raise InputError(
            f"{key} has the wrong shape",
            where=f"{where}, line {first_line - 1}",
            expected=f"({len(lines)}, 3)",
            got=got,
        )
    tokens = "\n".join(lines).split()
    if len(tokens) != len(lines) * header.width or any(line.count("_") for line in lines):
        _find_bad_line(lines, header, where, first_line)
    pos_column = header.columns.get("pos") or header.columns["positions"]
    try:
        numbers = _species(tokens, header)
        pos = _floats(tokens, header.width, pos_column)
        forces = None if forces_column is None else _floats(tokens, header.width, forces_column)
    except (KeyError, ValueError, OverflowError):
        _find_bad_line(lines, header, where, first_line)
        raise
    for what, values in (("position", pos), (key, forces)):
        if values is not None and not np.isfinite(values).all():
            atom, axis = np.argwhere(~np.isfinite(values))[0]
            raise InputError(
                f"{what} is not finite",
                where=f"{where}, line {first_line + atom}, atom {atom}, axis {'xyz'[axis]}",
                expected="a finite number",
                got=str(values[atom, axis]),
                remedy="skip_bad drops such frames",
            )
    return AtomBlock(numbers, pos, forces, key)


def _species_column(header: Header) -> tuple[str, Column]:
    name = next(name for name in ("species", "Z", "numbers") if name in header.columns)
    return name, header.columns[name]


def _species(tokens: list[str], header: Header) -> Int[np.ndarray, " N"]:
    _, column = _species_column(header)
    return np.array([_number(token, column.kind) for token in tokens[column.start :: header.width]], dtype=np.int64)


def _number(token: str, kind: str) -> int:
    if kind == "S":
        return int(_NUMBERS[token])
    number = int(token) if token.isascii() and token.isdigit() and len(token) < 4 else 0
    if not 1 <= number < len(chemical_symbols):
        raise KeyError(token)
    return number


def _floats(tokens: list[str], width: int, column: Column) -> Float[np.ndarray, "N 3"]:
    parts = [list(map(float, tokens[column.start + i :: width])) for i in range(3)]
    return np.array(parts).T.copy()


def _find_bad_line(lines: list[str], header: Header, where: str, first_line: int) -> None:
    """Raise for the first line that cannot be read; return where all can."""
    _, species = _species_column(header)
    real = {key: column for key, column in header.columns.items() if column.kind == "R"}
    for atom, line in enumerate(lines):
        place = f"{where}, line {first_line + atom}, atom {atom}"
        fields = line.split()
        if len(fields) != header.width:
            remedy = None if header.has_properties else "name further columns with Properties="
            if not fields or (len(fields) == 1 and fields[0].isdigit()):
                remedy = "is the atom count of this frame right?"
            raise InputError(
                "wrong number of columns", where=place, expected=str(header.width), got=f"{len(fields)}", remedy=remedy
            )
        symbol = fields[species.start]
        try:
            _number(symbol, species.kind)
        except KeyError:
            close = closest_symbol(symbol)
            got = f'"{symbol[:20]}"'
            remedy = f"closest element: {close}" if species.kind == "S" else None
            expected = "a chemical symbol" if species.kind == "S" else f"1 to {len(chemical_symbols) - 1}"
            raise InputError("unknown element", where=place, expected=expected, got=got, remedy=remedy) from None
        for key, column in real.items():
            for axis, token in enumerate(fields[column.start : column.start + column.width]):
                try:
                    strict_float(token)
                except ValueError:
                    at = f"{place}, axis {'xyz'[axis]}" if column.width == 3 else place
                    raise InputError(
                        f"{key} is not a number", where=at, expected="a number", got=f'"{token[:40]}"'
                    ) from None


def closest_symbol(text: str) -> str:
    """The chemical symbol that a misspelt one most likely means."""
    cleaned = "".join(letter for letter in text if letter.isascii() and letter.isalpha()).capitalize()
    for length in (3, 2, 1):
        if len(cleaned) >= length and cleaned[:length] in _NUMBERS and cleaned[:length] == cleaned:
            return cleaned
    close = difflib.get_close_matches(cleaned[:2], _NUMBERS, n=1, cutoff=0.5)
    by_letter = cleaned[:1] if cleaned[:1] in _NUMBERS else "H"
    return close[0] if close else by_letter
