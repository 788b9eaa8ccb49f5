"""The files of a simulation, written so that they can be cut back to any checkpoint."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from ase import Atoms, units

from geomol.data.write import extra_columns
from geomol.errors import OutputError, ResumeError
from geomol.md.guards import State

_COLUMNS = ("time_fs", "temperature_K", "potential_eV", "kinetic_eV", "total_eV")
_PERIODIC_COLUMNS = ("volume_A3", "pressure_GPa")


def extxyz_frame(atoms: Atoms, state: State, time_fs: float) -> str:
    """One frame in extended xyz, every number with all its digits (ASE reads it; momenta in ASE units).

    Masses, tags and fixed atoms are written where the structure has them: a run can start from any frame.
    """
    header = ""
    if atoms.cell.rank > 0:
        header = f'Lattice="{" ".join(repr(x) for x in atoms.cell.array.ravel().tolist())}" '
    further, ends = extra_columns(atoms)
    header += f"Properties=species:S:1:pos:R:3:momenta:R:3:forces:R:3{further} "
    header += f"energy={state.potential!r} step={state.step} time_fs={time_fs!r} "
    header += f'pbc="{" ".join("T" if p else "F" for p in atoms.pbc)}"'
    values = np.concatenate([atoms.positions, atoms.get_momenta(), state.forces], axis=1).tolist()
    symbols = atoms.get_chemical_symbols()
    rows = zip(symbols, values, ends, strict=True)
    lines = [f"{symbol} {' '.join(map(repr, row))}{end}" for symbol, row, end in rows]
    return "\n".join([str(len(atoms)), header, *lines, ""])


class Recorder:
    """Trajectory (`<name>.extxyz`) and table (`<name>.csv`), open for the length of a run.

    Args:
        folder: where they go; created if needed.
        name: stem of the files.
        periodic: add volume and pressure to the table.
        offsets: bytes to keep of each file when continuing; None starts anew.

    Raises:
        OutputError: a file cannot be opened or written.
        ResumeError: a file is shorter than the checkpoint says.
    """

    def __init__(self, folder: Path, name: str, *, periodic: bool, offsets: dict[str, int] | None = None) -> None:
        self.trajectory_path, self.table_path = folder / f"{name}.extxyz", folder / f"{name}.csv"
        self._periodic = periodic
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:
                self._trajectory = opened.enter_context(_open(self.trajectory_path, "trajectory", offsets))
                self._table = opened.enter_context(_open(self.table_path, "table", offsets))
                self._files = opened.pop_all()
        except OSError as error:
            raise output_error(error, folder) from error
        if offsets is None:
            columns = (*_COLUMNS, *_PERIODIC_COLUMNS) if periodic else _COLUMNS
            self._write(self._table, ",".join(columns) + "\n")

    def frame(self, atoms: Atoms, state: State, time_fs: float) -> None:
        """Append a frame to the trajectory."""
        self._write(self._trajectory, extxyz_frame(atoms, state, time_fs))

    def row(self, atoms: Atoms, state: State, time_fs: float) -> None:
        """Append a row to the table. The pressure includes the ideal-gas part."""
        row = [time_fs, state.temperature, state.potential, state.kinetic, state.total]
        if self._periodic:
            stress = atoms.get_stress(voigt=True, include_ideal_gas=True)
            row += [float(atoms.get_volume()), float(-stress[:3].mean() / units.GPa)]
        self._write(self._table, ",".join(map(repr, row)) + "\n")

    def sync(self) -> dict[str, int]:
        """Bring everything written to the disk, and say how long the files are."""
        try:
            for file in (self._trajectory, self._table):
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise output_error(error, self.table_path) from error
        return {"trajectory": self._trajectory.tell(), "table": self._table.tell()}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._files.close()
        except OSError as fault:
            # a full disk shows again on closing; the first error is the one to report
            if error is None:
                raise output_error(fault, self.table_path) from fault

    def _write(self, file: BinaryIO, text: str) -> None:
        try:
            file.write(text.encode())
        except OSError as error:
            raise output_error(error, Path(file.name)) from error


def _open(path: Path, kind: str, offsets: dict[str, int] | None) -> BinaryIO:
    if offsets is None:
        return path.open("wb")
    cut_back(path, offsets[kind])
    file = path.open("r+b")
    file.seek(offsets[kind])
    return file


def cut_back(path: Path, size: int) -> None:
    """Leaves the first bytes of a file: what was written after the checkpoint is made again.

    Raises:
        ResumeError: it has fewer.
    """
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise ResumeError(
            "the file is shorter than at the checkpoint",
            where=str(path),
            expected=f"at least {size} bytes",
            got=f"{found} bytes",
            remedy="start anew with overwrite",
        )
    os.truncate(path, size)


def output_error(error: OSError, path: Path) -> OutputError:
    """What a simulation says whose files cannot be written."""
    return OutputError(f"cannot write: {error.strerror or error}", where=str(path), remedy="continue later with resume")
