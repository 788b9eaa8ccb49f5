"""Reader of (extended) xyz: strict, with the file, frame, line and atom of every fault.

ASE's reader accepts NaN positions, text as energy and wrong force shapes, and allocates what the first line asks for.
This one scans the file itself, checks the atom count against the bytes that are left before it reads a frame, and
converts with numpy. Frames are counted from 0, lines from 1, atoms from 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from geomol.data.bad_frames import announce_dropped, announce_partial_labels, rows_kept
from geomol.data.charges import none_if_zero, whole_charge
from geomol.data.checks import cell_fault
from geomol.data.extxyz_atoms import AtomBlock, read_atoms
from geomol.data.extxyz_header import Header, parse_cell, parse_floats, parse_header, strict_float
from geomol.data.label_keys import LabelKeys, announce_other_labels
from geomol.data.labels import join_labels, stress_matrix
from geomol.data.structures import Structures
from geomol.errors import GeomolWarning, InputError

LEAST_ATOM_LINE = len(b"H 0 0 0\n")
MAX_LINE = 1 << 22  # bytes
_NO_KEYS = LabelKeys()


class TruncatedError(InputError):
    """The file ends inside a frame; what came before is complete."""


@dataclass(frozen=True)
class RawFrame:
    """One frame as text, with the line on which it starts."""

    line: int
    comment: str
    atoms: list[str]
    cut: bool  # the file ends with this frame, without a line end

    @property
    def text(self) -> str:
        """A file with this frame alone."""
        return "\n".join([str(len(self.atoms)), self.comment, *self.atoms, ""])


@dataclass(frozen=True)
class _Frame:
    block: AtomBlock
    cell: np.ndarray
    pbc: np.ndarray
    energy: np.ndarray | None
    stress: np.ndarray | None
    charge: float
    spin: float
    used: frozenset[str]
    present: frozenset[str]


def read_extxyz(
    path: str | Path, *, keys: LabelKeys = _NO_KEYS, skip_bad: bool = False, recover: bool = False
) -> Structures:
    """Structures of an (extended) xyz file, in the units of the file.

    Args:
        keys: names of the labels where they are not `energy`, `forces`, `stress` (or `virial` = −stress · volume).
        skip_bad: leave out frames with a bad value, and list them in a warning, instead of stopping at the first.
        recover: read the complete frames of a file that ends inside a frame, with a warning.

    Raises:
        InputError: see the module; nothing is returned in part unless asked for.
        ConfigError: a label key that the file does not have.
    """
    path = Path(path)
    frames: list[_Frame] = []
    bad: list[tuple[int, InputError]] = []
    with path.open("rb") as file:
        numbered = enumerate(raw_frames(file, path))
        while (item := _next(numbered, path, len(frames) + len(bad), recover=recover)) is not None:
            try:
                frames.append(_parse_frame(item[1], f"{path}, frame {item[0]}", keys))
            except InputError as error:
                if recover and item[1].cut and frames:
                    _announce_cut(error, len(frames))
                elif skip_bad:
                    bad.append((item[0], error))
                else:
                    raise
    if bad:
        announce_dropped(str(path), [i for i, _ in bad], len(frames) + len(bad), bad[0][1], stacklevel=3)
    if not frames:
        raise InputError("no structures", where=str(path), got="only bad frames" if bad else "an empty file")
    present, used = (frozenset[str]().union(*(getattr(f, k) for f in frames)) for k in ("present", "used"))
    announce_other_labels(str(path), present, keys, used)
    return replace(_join(path, frames), rows=rows_kept(len(frames), [i for i, _ in bad]))


def _next(
    numbered: Iterator[tuple[int, RawFrame]], path: Path, read: int, *, recover: bool
) -> tuple[int, RawFrame] | None:
    try:
        return next(numbered, None)
    except TruncatedError as error:
        if not (recover and read):
            raise
        _announce_cut(error, read)
        return None


def _announce_cut(error: InputError, read: int) -> None:
    warnings.warn(f"{error}; the {read} frames before it were read", GeomolWarning, stacklevel=4)


def raw_frames(file: BinaryIO, path: Path) -> Iterator[RawFrame]:
    """Frames as text; only the atom count and the number of lines are judged here."""
    size = path.stat().st_size
    offset, line, index = 0, 1, 0
    while raw := file.readline(MAX_LINE):
        text = _decode(raw, offset, path)
        offset += len(raw)
        if not text.strip():
            line += 1
            continue
        where = f"{path}, frame {index}, line {line}"
        count = _atom_count(text, where)
        if count * LEAST_ATOM_LINE - 1 > size - offset:
            raise TruncatedError(
                "the atom count is larger than the rest of the file can hold",
                where=where,
                expected=f"at most {(size - offset) // LEAST_ATOM_LINE}",
                got=text.strip()[:40],
                remedy="recover=True reads the complete frames" if index else None,
            )
        lines = [file.readline(MAX_LINE), *islice(file, count)]
        body = _decode(b"".join(lines), offset, path)
        offset += sum(map(len, lines))
        rows = body.split("\n")
        if len(lines) < count + 1 or not lines[-1].strip():
            complete = sum(1 for row in rows[1:] if row.strip())
            if complete < count and offset >= size:
                raise TruncatedError(
                    "the file ends inside this frame",
                    where=where,
                    expected=f"{count} atom lines",
                    got=str(complete),
                    remedy="recover=True reads the complete frames",
                )
        cut = offset >= size and not lines[-1].endswith(b"\n")
        yield RawFrame(line, rows[0].strip(), rows[1 : count + 1], cut)
        line, index = line + 2 + count, index + 1


def _atom_count(text: str, where: str) -> int:
    token = text.strip()
    if not (token.lstrip("+-").isascii() and token.lstrip("+-").isdigit()) or len(token) > 18:
        remedy = "the frame before may have more atom lines than its count" if "frame 0," not in where else None
        raise InputError("no atom count", where=where, expected="a whole number", got=f'"{token[:40]}"', remedy=remedy)
    if int(token) < 1:
        what = "zero atoms" if int(token) == 0 else "negative atom count"
        raise InputError(what, where=where, expected="at least 1", got=token)
    return int(token)


def _decode(raw: bytes, offset: int, path: Path) -> str:
    nul = raw.find(b"\0")
    try:
        if nul < 0:
            return raw.decode("utf-8")
        bad = nul
    except UnicodeDecodeError as error:
        bad = error.start
    raise InputError("not text", where=f"{path}, byte {offset + bad}", expected="UTF-8 text", got=f"0x{raw[bad]:02x}")


def _parse_frame(raw: RawFrame, where: str, keys: LabelKeys) -> _Frame:
    header_where = f"{where}, line {raw.line + 1}"
    header = parse_header(raw.comment, header_where)
    cell, pbc = parse_cell(header, header_where)
    fault = cell_fault(cell, pbc)
    if fault is not None:
        raise InputError(fault[0], where=header_where, got=fault[1])
    block = read_atoms(raw.atoms, header, where, first_line=raw.line + 2, forces_key=keys.forces)
    energy_key = keys.energy or "energy"
    energy = _header_numbers(header, energy_key, header_where, (1,))
    default_stress = next((key for key in ("stress", "virial") if key in header.values), None)
    stress_key = keys.stress or default_stress
    stress = _header_numbers(header, stress_key, header_where, (6, 9)) if stress_key else None
    if stress is not None and stress_key is not None:
        stress = stress_matrix(stress, header_where, key=stress_key, cell=cell)
    used = {energy_key, block.forces_key or "forces", *([stress_key] if stress_key else [])}
    if stress_key == "stress":
        used.add("virial")
    charge, spin = (_header_number(header, key, header_where) for key in ("charge", "spin"))
    if header.values.get("charge", "None") == "None":
        charge = _sum_of_charges(raw, header, where)
    present = frozenset(header.values) | frozenset(header.columns)
    energy = None if energy is None else energy.reshape(())
    return _Frame(block, cell, pbc, energy, stress, charge, spin, frozenset(used) & present, present)


def _header_number(header: Header, key: str, where: str) -> float:
    """A single number; 0 where the header does not give it, or gives Python's None or, with a warning, text."""
    if header.values.get(key) == "None":
        return 0.0
    try:
        numbers = _header_numbers(header, key, where, (1,))
    except InputError as error:
        warnings.warn(f"{error}: ignored", GeomolWarning, stacklevel=2)
        return 0.0
    return 0.0 if numbers is None else float(numbers[0])


def _sum_of_charges(raw: RawFrame, header: Header, where: str) -> float:
    """The charge by the column that ASE writes, 0 without it."""
    column = header.columns.get("initial_charges")
    if column is None or column.width != 1:
        return 0.0
    try:
        return whole_charge([strict_float(line.split()[column.start]) for line in raw.atoms])
    except ValueError:
        raise InputError("initial_charges are not numbers", where=f"{where}, line {raw.line + 2}") from None


def _header_numbers(header: Header, key: str, where: str, counts: tuple[int, ...]) -> np.ndarray | None:
    if key in header.repeated:
        raise InputError(f"{key} is given twice", where=where, expected="one value")
    if key not in header.values:
        return None
    numbers = parse_floats(header.values[key], key, where, counts)
    if not np.isfinite(numbers).all():
        raise InputError(
            f"{key} is not finite", where=where, got=header.values[key][:60], remedy="skip_bad drops such frames"
        )
    return numbers


def _join(path: Path, frames: list[_Frame]) -> Structures:
    counts = [len(frame.block.numbers) for frame in frames]
    labels = join_labels(
        [{"energy": frame.energy, "forces": frame.block.forces, "stress": frame.stress} for frame in frames], counts
    )
    joined = Structures(
        name=path.stem,
        numbers=np.concatenate([frame.block.numbers for frame in frames]),
        pos=np.concatenate([frame.block.pos for frame in frames]),
        ptr=np.concatenate([[0], np.cumsum(counts)]),
        cell=np.stack([frame.cell for frame in frames]),
        pbc=np.stack([frame.pbc for frame in frames]),
        energy=labels["energy"],
        forces=labels["forces"],
        stress=labels["stress"],
        charge=none_if_zero([frame.charge for frame in frames]),
        spin=none_if_zero([frame.spin for frame in frames]),
        source=path.name,
    )
    announce_partial_labels(str(path), joined)
    return joined
