"""`load_structures`: one way in for files and for datasets by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geomol.data.ase_files import read_ase_file
from geomol.data.bad_frames import sound_structures
from geomol.data.download import file_hash
from geomol.data.extxyz import read_extxyz
from geomol.data.folders import data_folders
from geomol.data.label_keys import LabelKeys
from geomol.data.npz import read_npz
from geomol.data.npz_file import NpzFile
from geomol.data.sdf import read_sdf_structures
from geomol.data.smiles_files import SMILES_FILES
from geomol.data.sources import SOURCES
from geomol.data.splits import check_split
from geomol.data.structures import Structures
from geomol.data.unit_check import warn_unlikely_units
from geomol.data.units import EV_ANGSTROM, Units, parse_units
from geomol.errors import DataError, GeomolError, InputError, nearest

SUFFIXES = (".xyz", ".extxyz", ".traj", ".db", ".npz", ".sdf")


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset by name: where it is, or that it can be downloaded (`path` None)."""

    name: str
    kind: str  # "$GEOMOL_DATA", "cache", "bundled" or "download"
    path: Path | None


def load_structures(
    spec: str | Path,
    *,
    units: str | Units | None = None,
    skip_bad: bool = False,
    recover: bool = False,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
) -> Structures:
    """Structures of a file, or of a dataset by name, in eV and Å, checked.

    Args:
        spec: a path (.xyz, .extxyz, .traj, .db, .npz, .sdf) or a name such as "rmd17/ethanol" or "ethanol-gfn2".
        units: units of the file, as for `parse_units`. ASE's formats and geomol's own are eV and Å unless stated.
        skip_bad: leave out frames with a bad value, count and list them in a warning.
        recover: read the complete frames of a truncated xyz file.
        energy_key: name of the energy where it is not `energy`; likewise `forces_key`, `stress_key`.

    Raises:
        InputError: a fault in the file, with its place. ConfigError: units or a label key that cannot be.
        DataError: no such dataset, or a wrong checksum. SecurityError: a file that could do harm.
    """
    keys = LabelKeys(energy_key, forces_key, stress_key)
    path = Path(spec)
    if path.suffix.lower() in SUFFIXES:
        if not path.is_file():
            raise DataError("no such file", where=str(path))
        structures = _read_file(path, units, keys, skip_bad=skip_bad, recover=recover)
        name = path.stem
    else:
        entry = find_dataset(str(spec))
        assert entry.path is not None
        verify_sums(entry.path)
        structures = _read_dataset(entry, units, keys, skip_bad=skip_bad)
        name = entry.name
    structures = replace(structures, name=name)
    warn_unlikely_units(structures)
    return structures


def _read_file(path: Path, units: str | Units | None, keys: LabelKeys, *, skip_bad: bool, recover: bool) -> Structures:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        structures = replace(read_npz(path, units=units, keys=keys), name=str(path))
        return sound_structures(structures, skip_bad=skip_bad, may_lack=_may_lack(path))
    if suffix == ".sdf":
        structures = read_sdf_structures(path, skip_bad=skip_bad)
    elif suffix in (".traj", ".db"):
        structures = replace(read_ase_file(path, keys=keys, skip_bad=skip_bad), name=str(path))
        structures = sound_structures(structures, skip_bad=skip_bad, may_lack=("energy", "forces", "stress"))
    else:
        structures = read_extxyz(path, keys=keys, skip_bad=skip_bad, recover=recover)
    return convert(structures, EV_ANGSTROM if units is None else parse_units(units))


def _may_lack(path: Path) -> tuple[str, ...]:
    return ("forces", "stress") if "positions" in NpzFile(path).headers else ()


def convert(structures: Structures, units: Units) -> Structures:
    """A set read in `units`, in eV and Å."""
    source = f"{structures.source}; read as {units}, converted to eV and Å"
    if units == EV_ANGSTROM:
        return replace(structures, source=source)
    stress, forces, energy = structures.stress, structures.forces, structures.energy
    return replace(
        structures,
        pos=structures.pos * units.length_in_angstrom,
        cell=structures.cell * units.length_in_angstrom,
        energy=None if energy is None else energy * units.energy_in_ev,
        forces=None if forces is None else forces * units.force_in_ev_per_angstrom,
        stress=None if stress is None else stress * units.stress_in_ev_per_angstrom3,
        source=source,
    )


def _read_dataset(entry: DatasetEntry, units: str | Units | None, keys: LabelKeys, *, skip_bad: bool) -> Structures:
    path = entry.path
    assert path is not None
    source = SOURCES.get(entry.name)
    if source is not None and path.name == Path(source.result).name and units is None:
        units = source.units
    structures = _read_file(path, units, keys, skip_bad=skip_bad, recover=False)
    folder = path.parent / "splits"
    if path.name.startswith("rmd17_") and folder.is_dir():
        structures = replace(structures, splits={**structures.splits, **_csv_splits(folder, len(structures))})
    return structures


def _csv_splits(folder: Path, total: int) -> dict[str, np.ndarray]:
    """The official rMD17 splits: `index_train_01.csv` becomes "train_1"."""
    splits = {}
    for path in sorted(folder.glob("index_t*_0?.csv")):
        words = path.read_text(encoding="utf-8", errors="replace").split()
        if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
            raise InputError("a split file holds something else than row numbers", where=str(path))
        _, part, number = path.stem.split("_")
        rows = np.array([int(word) for word in words], dtype=np.int64)
        check_split(rows, total, where=str(path))
        splits[f"{part}_{int(number)}"] = rows
    return splits


def verify_sums(path: Path) -> None:
    """Hold a file to the `SHA256SUMS` that lists it, or to the hash recorded beside it; without either, trust it."""
    sums, record = path.parent / "SHA256SUMS", path.with_name(path.name + ".sha256")
    beside = sums if sums.is_file() else record
    if not beside.is_file():
        return
    lines = [line.split(maxsplit=1) for line in beside.read_text(encoding="utf-8", errors="replace").splitlines()]
    expected = next((line[0] for line in lines if len(line) == 2 and line[1].strip().lstrip("*") == path.name), None)
    found = file_hash(path)
    if expected != found:
        raise DataError(
            "wrong sha256 checksum, the file is not used",
            where=str(path),
            expected=expected or f"a line in {beside.name}",
            got=found,
        )


def _candidates(name: str) -> list[str]:
    """Paths under a data folder that may hold the dataset `name`."""
    folder, _, leaf = name.rpartition("/")
    own = [f"{folder}/{leaf}.npz"] if folder else [f"{leaf}/{leaf}.npz"]
    return [*own, *([SOURCES[name].result] if name in SOURCES and SOURCES[name].result.endswith(".npz") else [])]


def find_dataset(name: str) -> DatasetEntry:
    """Where a dataset is.

    Raises:
        DataError: it is nowhere, with the names that are known and how to get it if it can be downloaded.
    """
    if Path(name).suffix:
        refuse_kind(Path(name))
    parts = name.split("/")
    if not 1 <= len(parts) <= 2 or any(part in ("", ".", "..") for part in parts):
        refuse_kind(Path(name))
        raise DataError(
            f'"{name}" is no file and no dataset', expected=f"a dataset name or a file {' '.join(SUFFIXES)}"
        )
    for kind, folder in data_folders():
        for candidate in _candidates(name):
            if (folder / candidate).is_file():
                return DatasetEntry(name, kind, folder / candidate)
    downloaded = [folder / SOURCES[name].result for _, folder in data_folders()] if name in SOURCES else []
    for path in downloaded:
        if path.is_file():
            raise DataError("this file is downloaded but has no reader", where=str(path), expected=" ".join(SUFFIXES))
    if name in SOURCES:
        raise DataError(f'dataset "{name}" is not on this machine', remedy=f"download it: geomol data get {name}")
    refuse_kind(Path(name))
    raise DataError(f'no dataset "{name}"', remedy=nearest(name, [entry.name for entry in list_datasets()]))


def refuse_kind(path: Path, *, expected: str = " ".join(SUFFIXES)) -> None:
    """Say of a file that is there that its kind is not read; of what is no file, nothing.

    Raises:
        DataError: naming the kinds that are read.
    """
    if path.is_file():
        remedy = None if path.suffix.lower() not in SMILES_FILES else "geomol predict and geomol embed read SMILES"
        raise DataError("this kind of file is not read", where=str(path), expected=expected, remedy=remedy)


def list_datasets() -> list[DatasetEntry]:
    """All datasets that can be loaded by name here, and those that can be downloaded, by name."""
    entries: dict[str, DatasetEntry] = {}
    for kind, folder in data_folders():
        for path in sorted(folder.glob("*/*.npz")):
            stem = next(
                (n.split("/")[-1] for n, s in SOURCES.items() if s.result == f"{path.parent.name}/{path.name}"),
                path.stem,
            )
            name = stem if stem == path.parent.name else f"{path.parent.name}/{stem}"
            if name not in entries and _is_structures(path):
                entries[name] = DatasetEntry(name, kind, path)
    for name in SOURCES:
        entries.setdefault(name, DatasetEntry(name, "download", None))
    return [entries[name] for name in sorted(entries)]


def _is_structures(path: Path) -> bool:
    try:
        headers = NpzFile(path).headers
    except GeomolError:
        return False
    return bool({"numbers", "z", "nuclear_charges"} & headers.keys() and {"positions", "R", "coords"} & headers.keys())


def describe(structures: Structures) -> dict[str, object]:
    """Figures about a set, ready for JSON: sizes, elements, labels, splits, where it is from."""
    counts = structures.n_atoms
    return {
        "name": structures.name,
        "structures": len(structures),
        "atoms": int(counts.sum()),
        "atoms_per_structure": [int(counts.min()), int(counts.max())] if len(counts) else [0, 0],
        "elements": structures.elements(),
        "periodic_structures": int(structures.pbc.any(axis=1).sum()),
        "labelled_structures": {key: int(structures.labelled(key).sum()) for key in ("energy", "forces", "stress")},
        "units": {"energy": "eV", "length": "Angstrom", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"},
        "splits": {name: len(rows) for name, rows in structures.splits.items()},
        "source": structures.source,
        "sha256": structures.content_hash(),
    }
