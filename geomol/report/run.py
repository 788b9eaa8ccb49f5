"""Reading a run folder into plain records. What is missing or damaged becomes a sentence, never an exception."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from geomol.checkpoint import read_manifest
from geomol.errors import DataError, GeomolError, InputError
from geomol.generate.molecules import Molecules
from geomol.generate.sdf import read_sdf
from geomol.report.trajectory import MAX_BYTES, Trajectory, read_trajectory

MAX_JSON_BYTES = 50_000_000
ALL_TRAJECTORIES_BYTES = 4_000_000

Columns = dict[str, ndarray]


@dataclass(frozen=True)
class Evaluation:
    """Predictions and references of one split: energies (S,) eV, forces (A, 3) eV/Å, stress (S, 3, 3) eV/Å³.

    A pair is None when either half is missing. `stated` are the figures of eval/<split>.json.
    """

    split: str
    numbers: ndarray
    ptr: ndarray
    energy: tuple[ndarray, ndarray] | None
    forces: tuple[ndarray, ndarray] | None
    stress: tuple[ndarray, ndarray] | None
    stated: dict[str, Any]


@dataclass(frozen=True)
class Stated:
    """Figures of one part of the data that come without the single predictions; classes and counts where there are."""

    part: str
    figures: dict[str, float]
    names: list[str]
    confusion: ndarray | None


@dataclass(frozen=True)
class Simulation:
    """One simulation: its observables by column name, what its JSON says, and the frames to show."""

    name: str
    columns: Columns
    info: dict[str, Any]
    trajectory: Trajectory | None
    notes: list[str]

    @property
    def num_atoms(self) -> int | None:
        """Atoms of the system, from the trajectory or the JSON."""
        if self.trajectory is not None:
            return len(self.trajectory.symbols)
        stated = self.info.get("num_atoms")
        return stated if isinstance(stated, int) and stated > 0 else None


@dataclass(frozen=True)
class Generated:
    """Molecules of `geomol sample`, with what its JSON says; `gallery` is the page beside them, if there is one."""

    name: str
    molecules: Molecules
    info: dict[str, Any]
    gallery: str | None


@dataclass(frozen=True)
class Run:
    """A run folder in memory; `notes` say what could not be read."""

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    manifest: dict[str, Any]
    metrics: Columns
    timing: Columns
    evaluations: list[Evaluation]
    simulations: list[Simulation]
    generated: list[Generated] = field(default_factory=list)
    stated: list[Stated] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(folder: Path) -> Run:
    """Read every known part of a run folder.

    Raises:
        DataError: the folder does not exist or is not a folder.
    """
    if not folder.is_dir():
        raise DataError("no such run folder", where=str(folder), remedy="give the folder that `geomol train` wrote")
    notes: list[str] = []
    return Run(
        name=folder.resolve().name,
        config=read_json(folder / "config.json", notes),
        summary=read_json(folder / "summary.json", notes),
        manifest=_read_manifest(folder / "model.safetensors", notes),
        metrics=read_csv(folder / "metrics.csv", notes),
        timing=read_csv(folder / "timing.csv", notes),
        evaluations=_read_evaluations(folder / "eval", notes),
        simulations=_read_simulations(folder / "md"),
        generated=_read_generated(folder / "molecules", notes),
        stated=_read_stated(folder / "eval", notes),
        notes=notes,
    )


def _read_manifest(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_manifest(path)
    except GeomolError as error:
        notes.append(f"model.safetensors could not be read ({_reason(error)}) and is left out.")
        return {}


def read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    """The object in a JSON file; empty, with a note, when there is none."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} could not be read ({_reason(error)}) and is left out.")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} does not hold a JSON object and is left out.")
        return {}
    return value


def read_csv(path: Path, notes: list[str]) -> Columns:
    """Numeric columns of a CSV file by name; cells that are no number become NaN, columns without any are dropped."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        notes.append(f"{path.name} could not be read ({_reason(error)}) and is left out.")
        return {}
    if len(rows) < 2:
        notes.append(f"{path.name} has no rows yet.")
        return {}
    header, body = rows[0], [row for row in rows[1:] if row]
    columns = {}
    for place, name in enumerate(header):
        values = np.array([_float(row[place]) if place < len(row) else np.nan for row in body])
        if np.isfinite(values).any():
            columns[name] = values
    return columns


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _read_evaluations(folder: Path, notes: list[str]) -> list[Evaluation]:
    """Evaluations with test splits first, then in alphabetical order."""
    found = []
    paths = sorted(folder.glob("*.npz"), key=lambda path: (not path.stem.startswith("test"), path.stem))
    for path in paths:
        stated = read_json(path.with_suffix(".json"), notes)
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            found.append(_evaluation(path.stem, arrays, stated))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, InputError) as error:
            notes.append(f"eval/{path.name} could not be read ({_reason(error)}) and is left out.")
    return found


def _read_stated(folder: Path, notes: list[str]) -> list[Stated]:
    """Evaluations that left figures alone, in alphabetical order."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.with_suffix(".npz").exists():
            continue
        content = read_json(path, notes)
        figures = content.get("figures", content)
        names, counts = content.get("names", []), content.get("confusion")
        if not isinstance(figures, dict) or not isinstance(names, list):
            notes.append(f"eval/{path.name} holds no figures and is left out.")
            continue
        numbers = {str(k): float(v) for k, v in figures.items() if isinstance(v, (int, float))}
        confusion = None
        if counts is not None:
            try:
                confusion = np.array(counts, dtype=np.int64)
                if confusion.shape != (len(names), len(names)):
                    raise ValueError(f"{len(names)} classes and a table of shape {confusion.shape}")
            except (ValueError, TypeError, OverflowError) as error:
                notes.append(f"eval/{path.name} has no usable confusion matrix ({_reason(error)}).")
                confusion = None
        found.append(Stated(path.stem, numbers, [str(name) for name in names], confusion))
    return found


def _evaluation(split: str, arrays: dict[str, ndarray], stated: dict[str, Any]) -> Evaluation:
    for name in ("numbers", "ptr"):
        if name not in arrays:
            raise InputError(f"no array named {name}")
    numbers, ptr = arrays["numbers"].astype(np.int64), arrays["ptr"].astype(np.int64)
    if ptr.ndim != 1 or ptr.size < 2 or ptr[0] != 0 or ptr[-1] != numbers.size or (np.diff(ptr) < 1).any():
        raise InputError("ptr does not divide the atoms into structures")
    count = ptr.size - 1
    return Evaluation(
        split=split,
        numbers=numbers,
        ptr=ptr,
        energy=_pair(arrays, "energy", (count,)),
        forces=_pair(arrays, "forces", (numbers.size, 3)),
        stress=_pair(arrays, "stress", (count, 3, 3)),
        stated=stated,
    )


def _pair(arrays: dict[str, ndarray], name: str, shape: tuple[int, ...]) -> tuple[ndarray, ndarray] | None:
    reference, predicted = arrays.get(f"{name}_ref"), arrays.get(f"{name}_pred")
    if reference is None or predicted is None:
        return None
    for array in (reference, predicted):
        if array.shape != shape:
            raise InputError(f"{name} has the wrong shape", expected=str(shape), got=str(array.shape))
    return reference.astype(np.float64), predicted.astype(np.float64)


def _read_generated(folder: Path, notes: list[str]) -> list[Generated]:
    """SDF files, but for the copies from before a relaxation."""
    found = []
    for path in sorted(folder.glob("*.sdf")):
        if path.stem.endswith("-raw"):
            continue
        try:
            molecules = read_sdf(path)
        except GeomolError as error:
            notes.append(f"molecules/{path.name} could not be read ({_reason(error)}) and is left out.")
            continue
        pages = [page for page in (path.with_suffix(".html"), folder / "gallery.html") if page.is_file()]
        gallery = f"{folder.name}/{pages[0].name}" if pages else None
        found.append(Generated(path.stem, molecules, read_json(path.with_suffix(".json"), notes), gallery))
    return found


def _read_simulations(folder: Path) -> list[Simulation]:
    names = sorted({path.stem for pattern in ("*.csv", "*.extxyz") for path in folder.glob(pattern)})
    found = []
    for name in names:
        notes: list[str] = []
        info = read_json(folder / f"{name}.json", notes)
        columns = read_csv(folder / f"{name}.csv", notes)
        trajectory = None
        path = folder / f"{name}.extxyz"
        if path.is_file():
            try:
                trajectory = read_trajectory(path, max_bytes=min(MAX_BYTES, ALL_TRAJECTORIES_BYTES // len(names)))
            except (InputError, OSError) as error:
                notes.append(f"The trajectory is not shown: {error}.")
        found.append(Simulation(name=name, columns=columns, info=info, trajectory=trajectory, notes=notes))
    return found
