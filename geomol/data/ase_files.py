"""Readers of ASE's own files, `.traj` and `.db`; what ASE raises on a damaged file becomes an InputError."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ase
import ase.db
import numpy as np
from ase.io.trajectory import TrajectoryReader

from geomol.data.bad_frames import announce_dropped, announce_partial_labels, rows_kept
from geomol.data.label_keys import LabelKeys, announce_other_labels
from geomol.data.labels import labels_of_atoms
from geomol.data.structures import Structures
from geomol.errors import GeomolError, InputError

_NO_KEYS = LabelKeys()


def read_ase_file(path: str | Path, *, keys: LabelKeys = _NO_KEYS, skip_bad: bool = False) -> Structures:
    """Structures of a `.traj` or `.db` file (eV, Å).

    Labels come from the stored calculator results; key-value pairs of a database are selectable with `keys`.

    Raises:
        InputError: a file that ASE cannot read, no structures, or a label of the wrong shape or not finite.
        ConfigError: a label key that no frame has.
    """
    path = Path(path)
    frames: list[ase.Atoms] = []
    bad: list[tuple[int, InputError]] = []
    present: set[str] = set()
    for i, atoms in enumerate(ase_frames(path)):
        present |= {*atoms.info, *atoms.arrays, *(atoms.calc.results if atoms.calc is not None else ())}
        try:
            _check_frame(atoms, f"{path}, frame {i}", keys)
        except InputError as error:
            if not skip_bad:
                raise
            bad.append((i, error))
        else:
            frames.append(atoms)
    if bad:
        announce_dropped(str(path), [i for i, _ in bad], len(frames) + len(bad), bad[0][1], stacklevel=3)
    if not frames:
        raise InputError("no structures", where=str(path), got="only bad frames" if bad else "an empty file")
    used = [key or quantity for quantity, key in keys.items() if (key or quantity) in present]
    announce_other_labels(str(path), present, keys, used)
    structures = Structures.from_atoms(
        frames,
        name=path.stem,
        source=path.name,
        energy_key=keys.energy,
        forces_key=keys.forces,
        stress_key=keys.stress,
    )
    announce_partial_labels(str(path), structures)
    return replace(structures, rows=rows_kept(len(frames), [i for i, _ in bad]))


def _check_frame(atoms: ase.Atoms, where: str, keys: LabelKeys) -> None:
    if len(atoms) == 0:
        raise InputError("zero atoms", where=where, expected="at least 1")
    labels_of_atoms(atoms, where, keys.energy, keys.forces, keys.stress)


def ase_frames(path: Path) -> Iterator[ase.Atoms]:
    """All that ASE reads from a `.traj` or `.db` file, frame by frame.

    Raises:
        InputError: a file that ASE cannot read.
    """
    try:
        yield from _database(path) if path.suffix == ".db" else _trajectory(path)
    except GeomolError:
        raise
    except Exception as error:  # ASE lets anything through: struct.error, KeyError, sqlite3 and zlib errors, ...
        kind = "ASE database" if path.suffix == ".db" else "ASE trajectory"
        got = f"{type(error).__name__}: {error}"[:120]
        raise InputError(f"not a readable {kind}", where=str(path), got=got) from error


def _trajectory(path: Path) -> Iterator[ase.Atoms]:
    with TrajectoryReader(str(path)) as reader:
        for i in range(len(reader)):
            yield reader[i]


def _database(path: Path) -> Iterator[ase.Atoms]:
    if path.read_bytes()[:16] != b"SQLite format 3\0":
        raise InputError("not an ASE database", where=str(path), expected="an SQLite file")
    for row in ase.db.connect(str(path), use_lock_file=False).select():
        atoms = row.toatoms()
        atoms.info.update({key: np.asarray(value)[()] for key, value in row.key_value_pairs.items()})
        yield atoms
