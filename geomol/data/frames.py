"""Structures as `ase.Atoms` with what dynamics and relaxation read beside positions and labels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from geomol.data.ase_files import ase_frames
from geomol.data.catalogue import SUFFIXES, load_structures
from geomol.data.extxyz import RawFrame, raw_frames
from geomol.data.extxyz_header import parse_header
from geomol.errors import ConfigError, GeomolWarning, InputError

# What is carried beside constraints and info: trailing shape and type.
_ARRAYS: dict[str, tuple[tuple[int, ...], type]] = {"momenta": ((3,), float), "masses": ((), float), "tags": ((), int)}


def load_frames(spec: str, index: int | None = None) -> list[Atoms]:
    """Structures of a file or data set, with constraints, momenta, masses, tags and info where the file has them.

    `load_structures` reads and judges the file; what a flat store has no place for is then read by ASE, frame by frame.

    Args:
        spec: as for `load_structures`.
        index: the one structure to give, from 0, or from the end if negative; None: all.

    Raises:
        ConfigError: no structure has this number.
        InputError: constraints, momenta, masses or tags that cannot be read or cannot be; see also `load_structures`.
    """
    structures = load_structures(spec)
    total = len(structures)
    if index is not None and not -total <= index < total:
        raise ConfigError("no such structure", where=spec, expected=f"0 to {total - 1}", got=str(index))
    rows = range(total) if index is None else range(total)[index:][:1]
    frames = [structures.to_atoms(row) for row in rows]
    path = Path(spec)
    if path.suffix.lower() in SUFFIXES and path.suffix.lower() not in (".npz", ".sdf"):
        for row, atoms, read in zip(rows, frames, islice(_as_ase_reads(path), rows.start, rows.stop), strict=True):
            if read is not None:
                _carry(read, atoms, f"{path}, frame {row}")
    return frames


def _as_ase_reads(path: Path) -> Iterator[Atoms | None]:
    """All frames of a file that has been checked; None where ASE cannot read one, which is announced."""
    if path.suffix.lower() in (".traj", ".db"):
        yield from ase_frames(path)
        return
    with path.open("rb") as file:
        for row, raw in enumerate(raw_frames(file, path)):
            yield _parsed(raw, f"{path}, frame {row}")


def _parsed(raw: RawFrame, where: str) -> Atoms | None:
    try:
        read: Atoms = ase.io.read(io.StringIO(raw.text), format="extxyz")
    except Exception as error:  # of any kind, as ASE does not check what it reads
        got = f"{type(error).__name__}: {error}"[:120]
        lost = sorted({"move_mask", *_ARRAYS} & parse_header(raw.comment, where).columns.keys())
        if lost:
            remedy = "correct the frame or leave these columns out"
            raise InputError(f"ASE cannot read {' and '.join(lost)}", where=where, got=got, remedy=remedy) from error
        warnings.warn(f"{where}: ASE cannot read the info of this frame, got {got}", GeomolWarning, stacklevel=2)
        return None
    return read


def _carry(source: Atoms, target: Atoms, where: str) -> None:
    for name, (tail, kind) in _ARRAYS.items():
        if name in source.arrays:
            values = np.asarray(source.arrays[name])
            _check_array(name, values, (len(target), *tail), where)
            target.set_array(name, values, kind)
    target.set_constraint([constraint for constraint in source.constraints if not _is_void(constraint, source)])
    target.info |= source.info


def _is_void(constraint: object, atoms: Atoms) -> bool:
    """Whether a constraint holds nothing, as those do that ASE makes of atoms which a `move_mask` lets go."""
    return isinstance(constraint, FixAtoms | FixCartesian) and not constraint.get_removed_dof(atoms)


def _check_array(name: str, values: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    if values.shape != shape or values.dtype.kind not in "fiu":
        got = f"{values.shape} of kind {values.dtype.kind}"
        raise InputError(f"{name} has the wrong shape", where=where, expected=f"numbers, {shape}", got=got)
    faulty = ~np.isfinite(values) | ((values <= 0) if name == "masses" else False)
    if faulty.any():
        place = np.argwhere(faulty)[0]
        expected = "a positive number" if name == "masses" else "a finite number"
        got = str(values[tuple(place)])
        raise InputError(f"{name} cannot be", where=f"{where}, atom {place[0]}", expected=expected, got=got)
