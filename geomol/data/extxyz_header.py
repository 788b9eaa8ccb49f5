"""The comment line of an extended xyz frame: `key=value` pairs, lattice, and the meaning of the columns."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from geomol.errors import InputError

_PAIR = re.compile(
    r"""\s*(?P<key>"(?:[^"\\]|\\.)*"|[^\s="']+)
        (?:\s*=\s*(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^}]*\}|\[[^\s]*\]|\[[^\]]*\]|[^\s]*))?""",
    re.VERBOSE,
)
_TRUE, _FALSE = {"t", "true", ".true.", "1"}, {"f", "false", ".false.", "0"}
DEFAULT_PROPERTIES = "species:S:1:pos:R:3"
MAX_COLUMNS = 10_000


@dataclass(frozen=True)
class Column:
    """One property of `Properties=`: columns `start` to `start + width` of every atom line."""

    kind: str  # S, R, I or L
    start: int
    width: int


@dataclass(frozen=True)
class Header:
    """A parsed comment line."""

    values: dict[str, str]
    repeated: frozenset[str]
    columns: dict[str, Column]
    width: int
    has_properties: bool


def parse_header(line: str, where: str) -> Header:
    """Split a comment line into pairs and columns.

    Raises:
        InputError: a `Properties` entry that cannot be read, or one without species and positions.
    """
    values: dict[str, str] = {}
    repeated: set[str] = set()
    position = 0
    while position < len(line) and (match := _PAIR.match(line, position)):
        position = match.end()
        key, value = _unquote(match["key"]), _unquote(match["value"] or "")
        if key in values:
            repeated.add(key)
        values[key] = value if match["value"] is not None else "T"
    _refuse_repeated({"Properties", "Lattice", "pbc"} & repeated, where)
    columns, width = parse_properties(values.get("Properties", DEFAULT_PROPERTIES), where)
    return Header(values, frozenset(repeated), columns, width, "Properties" in values)


def _refuse_repeated(keys: set[str], where: str) -> None:
    for key in sorted(keys):
        raise InputError(f"{key} is given twice", where=where, expected="one value")


def _unquote(text: str) -> str:
    if len(text) >= 2 and (text[0], text[-1]) in (('"', '"'), ("'", "'"), ("{", "}"), ("[", "]")):
        return text[1:-1]
    return text


def parse_properties(text: str, where: str) -> tuple[dict[str, Column], int]:
    """Columns by name, and the number of columns in all, of `name:kind:width` triples."""
    parts = text.split(":")
    if len(parts) % 3:
        raise InputError("Properties cannot be read", where=where, expected="name:kind:columns triples", got=text[:80])
    columns: dict[str, Column] = {}
    start = 0
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        width = int(count) if count.isascii() and count.isdigit() and len(count) < 6 else 0
        if kind not in ("S", "R", "I", "L") or not 1 <= width <= MAX_COLUMNS:
            got = f"{name}:{kind}:{count}"[:80]
            raise InputError(
                "Properties cannot be read", where=where, expected="kind S, R, I or L and a width", got=got
            )
        if name in columns:
            raise InputError(f"property {name} is given twice", where=where, expected="one column group")
        columns[name] = Column(kind, start, width)
        start += width
    _require(columns, ("species", "Z", "numbers"), {"S": 1, "I": 1}, where)
    _require(columns, ("pos", "positions"), {"R": 3}, where)
    return columns, start


def _require(columns: dict[str, Column], names: tuple[str, ...], kinds: dict[str, int], where: str) -> None:
    found = next((name for name in names if name in columns), None)
    if found is None or kinds.get(columns[found].kind) != columns[found].width:
        got = "none" if found is None else f"{found}:{columns[found].kind}:{columns[found].width}"
        wanted = " or ".join(f"{names[0]}:{kind}:{width}" for kind, width in kinds.items())
        raise InputError(f"Properties has no usable {names[0]}", where=where, expected=wanted, got=got)


def parse_floats(text: str, what: str, where: str, counts: tuple[int, ...]) -> Float[np.ndarray, " K"]:
    """Numbers from text such as `"1 0 0"` or `[[1, 0], [0, 1]]`; their count must be one of `counts`."""
    tokens = re.sub(r"[\[\]{},]", " ", text).split()
    try:
        numbers = np.array([strict_float(token) for token in tokens])
    except ValueError:
        raise InputError(f"{what} is not a number", where=where, expected="numbers", got=f'"{text[:60]}"') from None
    if len(numbers) not in counts:
        wanted = " or ".join(map(str, counts))
        raise InputError(
            f"{what} has the wrong shape", where=where, expected=f"{wanted} numbers", got=str(len(numbers))
        )
    return numbers


def strict_float(token: str) -> float:
    """A float as other programs read it: Python's `1_000` is refused."""
    if "_" in token:
        raise ValueError(token)
    return float(token)


def parse_cell(header: Header, where: str) -> tuple[Float[np.ndarray, "3 3"], Bool[np.ndarray, " 3"]]:
    """Lattice (rows are vectors, Å) and periodic flags; a lattice without `pbc` is periodic along all axes."""
    cell = np.zeros((3, 3))
    if "Lattice" in header.values:
        cell = parse_floats(header.values["Lattice"], "Lattice", where, (9,)).reshape(3, 3)
    if "pbc" not in header.values:
        return cell, np.full(3, "Lattice" in header.values)
    flags = re.sub(r"[\[\]{},]", " ", header.values["pbc"]).lower().split()
    if len(flags) not in (1, 3) or not set(flags) <= _TRUE | _FALSE:
        raise InputError("pbc cannot be read", where=where, expected='"T T F"', got=f'"{header.values["pbc"][:40]}"')
    return cell, np.array([flag in _TRUE for flag in (flags * 3 if len(flags) == 1 else flags)])
