"""Reader of npz files: the (r)MD17 layout, and the compact layout of geomol itself.

| layout | numbers | positions | energies | forces | units |
|---|---|---|---|---|---|
| sGDML / MD17 | z (n,) | R (F, n, 3) | E (F,) or (F, 1) | F (F, n, 3) | r_unit, e_unit if stored, else to be stated |
| rMD17 | nuclear_charges (n,) | coords (F, n, 3) | energies (F,) | forces (F, n, 3) | to be stated |
| compact, fixed | numbers (n,) | positions (F, n, 3) | energies (F,) | forces (F, n, 3) | eV, Å |
| compact, ragged | numbers (A,) with n_atoms (F,) | positions (A, 3) | energies (F,) | forces (A, 3) | eV, Å |

`energies` without a value are a fault; `forces` and `stress` that are NaN throughout a structure of the compact
layout mean that it has none (energy-only scans). Either layout may hold `cells` (F, 3, 3), `pbc` (F, 3), `stress`
(F, 3, 3), and splits: integer arrays `train…`, `valid…`, `test…` of row numbers, or text arrays `split` and
`config_type` with one word per structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomol.data.label_keys import LabelKeys, announce_other_labels
from geomol.data.npz_file import NpzFile
from geomol.data.npz_splits import read_splits
from geomol.data.structures import Structures
from geomol.data.units import EV_ANGSTROM, Units, parse_units
from geomol.errors import ConfigError, InputError

_NAMES = {
    "numbers": ("nuclear_charges", "z", "numbers"),
    "positions": ("coords", "R", "positions"),
    "energies": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
    "cells": ("cells", "cell"),
    "pbc": ("pbc",),
    "stress": ("stress",),
}
_COMPACT = ("numbers", "positions")
_NO_KEYS = LabelKeys()


@dataclass(frozen=True)
class _Sizes:
    frames: int
    atoms: int  # over all frames
    counts: np.ndarray
    fixed: int | None  # atoms of every frame in the fixed layouts


def read_npz(
    path: str | Path, *, units: str | Units | None = None, keys: LabelKeys = _NO_KEYS, announce: bool = True
) -> Structures:
    """Structures of an npz file, converted to eV and Å.

    Args:
        units: of the file, as for `parse_units`; needed for the (r)MD17 layouts unless the file states them.
        keys: names of label arrays other than the usual ones.
        announce: whether to warn of arrays that look like labels and are not read.

    Raises:
        InputError: a missing array, a wrong shape or unequal lengths, per key.
        SecurityError: object arrays, or a file beyond the size limits.
        ConfigError: units that are neither stated nor in the file.
    """
    file = NpzFile(path)
    chosen = {"energies": keys.energy, "forces": keys.forces, "stress": keys.stress}
    names = {what: chosen.get(what) or file.first(*options) for what, options in _NAMES.items()}
    used = [name for name in (names["energies"], names["forces"], names["stress"]) if name in file.headers]
    known = {"isolated_energies", "old_energies", "old_forces"}
    if announce:
        announce_other_labels(str(path), [k for k in file.headers if k not in known], keys, [u for u in used if u])
    sizes = _check_shapes(file, names)
    factors = _units(file, names, units)
    arrays = {what: file.read(name) for what, name in names.items() if name in file.headers and name}
    labels = _label_arrays(arrays, sizes, factors)
    return Structures(
        name=Path(path).stem,
        **_structure_arrays(arrays, sizes, factors),
        energy=labels.get("energy"),
        forces=labels.get("forces"),
        stress=labels.get("stress"),
        splits=read_splits(file, sizes.frames),
        source=f"{Path(path).name}; read as {factors}, converted to eV and Å",
        isolated_energies=_isolated(file),
    )


def _units(file: NpzFile, names: dict[str, str | None], units: str | Units | None) -> Units:
    if units is not None:
        return parse_units(units)
    stored = [str(file.read(key)[()]) for key in ("e_unit", "r_unit") if key in file.headers]
    if len(stored) == 2:
        texts = [text[2:-1] if text.startswith("b'") else text for text in stored]
        return parse_units(",".join(texts))
    if (names["numbers"], names["positions"]) == _COMPACT:
        return EV_ANGSTROM
    raise ConfigError(
        "the units of this file are not known",
        where=str(file.path),
        expected="units of energy and length",
        remedy='state them: units="kcal/mol,Angstrom" is (r)MD17 as published; on the command line --units',
    )


def _check_shapes(file: NpzFile, names: dict[str, str | None]) -> _Sizes:
    where = str(file.path)
    for what in ("numbers", "positions"):
        if names[what] not in file.headers:
            wanted, found = " or ".join(_NAMES[what]), ", ".join(list(file.headers)[:12]) or "nothing"
            raise InputError(f"no {what}", where=where, expected=f"an array {wanted}", got=found)
    shapes = {what: file.headers[name].shape for what, name in names.items() if name in file.headers and name}
    sizes = _sizes(file, shapes)
    per_atom = (sizes.frames, sizes.fixed, 3) if sizes.fixed is not None else (sizes.atoms, 3)
    frames = sizes.frames
    expected: dict[str, tuple[tuple[int, ...], ...]] = {
        "numbers": ((sizes.fixed if sizes.fixed is not None else sizes.atoms,),),
        "positions": (per_atom,),
        "energies": ((frames,), (frames, 1)),
        "forces": (per_atom,),
        "cells": ((frames, 3, 3), (3, 3)),
        "pbc": ((frames, 3), (3,)),
        "stress": ((frames, 3, 3),),
    }
    faults = []
    for what, shape in shapes.items():
        kind = file.headers[names[what] or ""].dtype.kind
        if shape not in expected[what] or kind not in ("iu" if what == "numbers" else "biuf"):
            faults.append(
                f"{names[what]}: expected {' or '.join(map(str, expected[what]))} numbers, got {shape} {kind}"
            )
    if faults:
        raise InputError("wrong shapes: " + "; ".join(faults), where=where)
    return sizes


def _sizes(file: NpzFile, shapes: dict[str, tuple[int, ...]]) -> _Sizes:
    pos = shapes["positions"]
    if "n_atoms" in file.headers:
        counts = file.read("n_atoms")
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or not len(counts) or counts.min() < 1:
            raise InputError(
                "n_atoms cannot be used",
                where=str(file.path),
                expected="atoms per structure, at least 1",
                got=str(counts.shape),
            )
        return _Sizes(len(counts), int(counts.sum(dtype=np.int64)), counts.astype(np.int64), None)
    if len(pos) != 3 or pos[2] != 3 or not pos[0] or not pos[1]:
        expected = "(frames, atoms, 3), or n_atoms beside (atoms, 3)"
        raise InputError("positions have the wrong shape", where=str(file.path), expected=expected, got=str(pos))
    return _Sizes(pos[0], pos[0] * pos[1], np.full(pos[0], pos[1], dtype=np.int64), pos[1])


def _structure_arrays(arrays: dict[str, np.ndarray], sizes: _Sizes, units: Units) -> dict[str, np.ndarray]:
    frames, numbers = sizes.frames, arrays["numbers"].astype(np.int64)
    cells = arrays.get("cells", np.zeros((3, 3)))
    default_pbc = (cells != 0).any(axis=(-2, -1), keepdims=True)[..., 0]
    pbc = arrays.get("pbc", np.broadcast_to(default_pbc, (*default_pbc.shape[:-1], 3)))
    return {
        "numbers": numbers if sizes.fixed is None else np.tile(numbers, frames),
        "pos": arrays["positions"].reshape(-1, 3).astype(np.float64) * units.length_in_angstrom,
        "ptr": np.concatenate([[0], np.cumsum(sizes.counts)]),
        "cell": np.broadcast_to(cells, (frames, 3, 3)) * units.length_in_angstrom,
        "pbc": np.broadcast_to(pbc, (frames, 3)).astype(np.bool_),
    }


def _label_arrays(arrays: dict[str, np.ndarray], sizes: _Sizes, units: Units) -> dict[str, np.ndarray]:
    labels = {}
    if "energies" in arrays:
        labels["energy"] = arrays["energies"].reshape(sizes.frames).astype(np.float64) * units.energy_in_ev
    if "forces" in arrays:
        labels["forces"] = arrays["forces"].reshape(-1, 3).astype(np.float64) * units.force_in_ev_per_angstrom
    if "stress" in arrays:
        labels["stress"] = arrays["stress"].astype(np.float64) * units.stress_in_ev_per_angstrom3
    return labels


def _isolated(file: NpzFile) -> dict[int, float]:
    if not {"isolated_numbers", "isolated_energies"} <= file.headers.keys():
        return {}
    numbers, energies = file.read("isolated_numbers"), file.read("isolated_energies")
    if numbers.ndim != 1 or numbers.shape != energies.shape:
        got = f"{numbers.shape} and {energies.shape}"
        raise InputError("isolated_numbers and isolated_energies differ in length", where=str(file.path), got=got)
    return {int(number): float(energy) for number, energy in zip(numbers, energies, strict=True)}
