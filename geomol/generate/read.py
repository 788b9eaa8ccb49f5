"""Molecules of a file to be scored: broken records are kept as failures, since leaving them out would flatter."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from geomol.data import Structures, load_qm9, load_structures, read_extxyz, read_npz
from geomol.errors import DataError, InputError
from geomol.generate.molecules import Molecules, structures_of
from geomol.generate.sdf import read_sdf

Part = tuple[np.ndarray, np.ndarray]
_NOTHING: Part = (np.zeros(0, np.int64), np.zeros((0, 3)))


def read_molecules(source: str | Path) -> Molecules:
    """Molecules of an .sdf (bonds kept), .xyz, .extxyz or .npz file, or of a data set by name such as "qm9".

    Periodic cells are ignored. A record that cannot be read, or with a position that is not finite, becomes a molecule
    without atoms and a fault.

    Raises:
        DataError: no such file or data set. InputError: a file of another kind or without any record.
    """
    path = Path(source)
    kind = path.suffix.lower()
    if kind == ".sdf":
        return read_sdf(path)
    if str(source) == "qm9":
        return Molecules(load_qm9()[0])
    if kind in (".xyz", ".extxyz", ".npz") and not path.is_file():
        raise DataError("no such file", where=str(path))
    if kind == ".npz":
        return _without_faulty(read_npz(path, announce=False))
    if kind in (".xyz", ".extxyz"):
        return _read_xyz(path)
    return Molecules(load_structures(source))


def _without_faulty(structures: Structures) -> Molecules:
    """Structures with a position that is not finite as molecules without atoms."""
    owner = np.repeat(np.arange(len(structures)), structures.n_atoms)
    bad = np.unique(owner[~np.isfinite(structures.pos).all(axis=1)])
    if not len(bad):
        return Molecules(structures)
    parts = [(structures.numbers[a:b], structures.pos[a:b]) for a, b in _bounds(structures)]
    faults = {int(row): "unreadable record: a position is not finite" for row in bad}
    return _molecules([_NOTHING if i in faults else part for i, part in enumerate(parts)], faults, structures.name)


def _read_xyz(path: Path) -> Molecules:
    """The strict reader for the file as a whole and, where it objects, for one frame at a time."""
    try:
        return Molecules(_quietly(path))
    except InputError:
        frames = list(_frames(path))
    if not frames:
        raise InputError("no molecules", where=str(path), got="an empty file")
    parts: list[Part] = []
    faults: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in _read_frames(frames, Path(folder) / "frame.xyz"):
            if isinstance(part, str):
                faults[len(parts)] = f"unreadable record: {part}"
            parts.append(_NOTHING if isinstance(part, str) else part)
    return _molecules(parts, faults, path.stem)


def _quietly(path: Path) -> Structures:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels in the file, which nobody asked for here
        return read_extxyz(path)


def _frames(path: Path) -> Iterator[str]:
    """The text of each frame; one that does not start with a number of atoms swallows the rest of the file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                continue
            count = int(line) if line.strip().isdecimal() and len(line) < 12 else None
            if count is None:
                yield line + file.read()
                return
            lines = [line]
            while len(lines) < count + 2 and (following := file.readline()):
                lines.append(following)
            yield "".join(lines)


def _read_frames(frames: Sequence[str], scratch: Path) -> list[Part | str]:
    """Each frame, or what is wrong with it; the halves that hold no fault are read at once."""
    scratch.write_text("".join(frames), encoding="utf-8")
    try:
        structures = _quietly(scratch)
        if len(structures) == len(frames):
            return [(structures.numbers[a:b], structures.pos[a:b]) for a, b in _bounds(structures)]
        fault = "not one frame"
    except InputError as error:
        fault = error.what
    if len(frames) == 1:
        return [fault]
    half = len(frames) // 2
    return _read_frames(frames[:half], scratch) + _read_frames(frames[half:], scratch)


def _bounds(structures: Structures) -> Iterator[tuple[int, int]]:
    return zip(structures.ptr[:-1].tolist(), structures.ptr[1:].tolist(), strict=True)


def _molecules(parts: Sequence[Part], faults: dict[int, str], name: str) -> Molecules:
    return Molecules(structures_of([p[0] for p in parts], [p[1] for p in parts], name=name), faults=faults)
