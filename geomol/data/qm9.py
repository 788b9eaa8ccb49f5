"""QM9 with its table of targets, from the compact file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from geomol.data.folders import data_folders
from geomol.data.npz import read_npz
from geomol.data.npz_file import NpzFile
from geomol.data.structures import Structures
from geomol.errors import ConfigError, DataError, InputError, nearest

# Units of the compact file, by target name.
QM9_UNITS = {
    "mu": "Debye",
    "alpha": "Bohr^3",
    "r2": "Bohr^2",
    "Cv": "cal/(mol K)",
    "A": "GHz",
    "B": "GHz",
    "C": "GHz",
}


@dataclass(frozen=True, eq=False)
class PropertyTable:
    """One row per structure, one column per target; NaN where a value is not known."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    values: Float[np.ndarray, "S T"]
    ids: Int[np.ndarray, " S"]  # index in the published set, from 1
    holdout: Bool[np.ndarray, " S"]  # of the official test part of the G4MP2 energies
    vectors: Mapping[str, tuple[Float[np.ndarray, "S 3"], str]] = field(default_factory=dict)  # NaN rows; unit

    def vector(self, name: str) -> tuple[Float[np.ndarray, "S 3"], list[str]]:
        """Rows of a vector property, in the frame of the positions, and its unit.

        Raises:
            ConfigError: an unknown one, with the valid names.
        """
        if name not in self.vectors:
            raise ConfigError(f'unknown vector target "{name}"', expected=", ".join(self.vectors) or "none")
        values, unit = self.vectors[name]
        return values, [unit]

    def column(self, name: str) -> Float[np.ndarray, " S"]:
        """Values of one target.

        Raises:
            ConfigError: an unknown target, with the valid names and the nearest.
        """
        if name not in self.names:
            raise ConfigError(f'unknown target "{name}"', remedy=nearest(name, self.names))
        return self.values[:, self.names.index(name)]


def load_qm9(path: str | Path | None = None) -> tuple[Structures, PropertyTable]:
    """QM9 geometries and targets from a compact `qm9.npz`; looked for in the data folders unless given.

    Raises:
        DataError: the file is nowhere. InputError: it is not such a file.
    """
    if path is None:
        places = [folder / "qm9" / "qm9.npz" for _, folder in data_folders()]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise DataError("no compact qm9.npz in the data folders", remedy="set GEOMOL_DATA")
    file = NpzFile(path)
    structures = read_npz(path, announce=False)  # it has no label called energy, which is no news here
    names = tuple(str(name) for name in file.read("target_names"))
    values, ids = file.read("targets"), file.read("gdb_index")
    if values.shape != (len(structures), len(names)) or ids.shape != (len(structures),):
        raise InputError(
            "targets have the wrong shape",
            where=str(path),
            expected=str((len(structures), len(names))),
            got=str(values.shape),
        )
    units = tuple(QM9_UNITS.get(name, "eV") for name in names)
    holdout, vectors = np.zeros(len(structures), dtype=bool), {}
    if "g4mp2_official_holdout" in file.headers:
        holdout = file.read("g4mp2_official_holdout").astype(bool)
    if "mp2_dipole" in file.headers:
        dipole = np.full((len(structures), 3), np.nan)
        dipole[file.read("mp2_rows")] = file.read("mp2_dipole")
        vectors["mp2_dipole"] = (dipole, "Debye")
    return structures, PropertyTable(names, units, values.astype(np.float64), ids.astype(np.int64), holdout, vectors)
