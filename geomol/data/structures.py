"""The flat store: many structures and their labels in a handful of numpy arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from jaxtyping import Bool, Int

from geomol.data.charges import charge_of_atoms, none_if_zero
from geomol.data.labels import join_labels, labels_of_atoms, matrix_to_voigt
from geomol.errors import ConfigError, InputError, nearest

Rows = np.ndarray | Sequence[int] | slice

_PER_STRUCTURE = {"cell": (3, 3), "pbc": (3,), "energy": (), "stress": (3, 3), "charge": (), "spin": (), "rows": ()}
_PER_ATOM = {"numbers": (), "pos": (3,), "forces": (3,)}
_DTYPES = {"numbers": np.int64, "ptr": np.int64, "rows": np.int64, "pbc": np.bool_}  # all others float64


@dataclass(frozen=True, eq=False)
class Structures:
    """S structures of A atoms in all, with labels where the source has them.

    Atoms of structure i are rows `ptr[i]:ptr[i + 1]`. A NaN label means that this structure has no such label
    (`labelled` tells which do); a reader never lets a NaN of the source pass as one.

    Raises:
        InputError: arrays of the wrong shape or of unequal lengths, naming the array.
    """

    # Checked and converted below rather than by annotation, since arrays of any shape arrive here from files.
    name: str
    numbers: np.ndarray  # (A,) int64, atomic numbers
    pos: np.ndarray  # (A, 3) float64, Å
    ptr: np.ndarray  # (S + 1,) int64
    cell: np.ndarray  # (S, 3, 3) float64, Å; rows are lattice vectors, zeros where there is none
    pbc: np.ndarray  # (S, 3) bool
    energy: np.ndarray | None = None  # (S,) eV
    forces: np.ndarray | None = None  # (A, 3) eV/Å
    stress: np.ndarray | None = None  # (S, 3, 3) eV/Å³, positive under tension
    splits: dict[str, np.ndarray] = field(default_factory=dict)  # row numbers by name
    source: str = ""  # where it is from and which units were converted
    isolated_energies: dict[int, float] = field(default_factory=dict)  # eV of free atoms, where the source has them
    charge: np.ndarray | None = None  # (S,) elementary charges; None where the source gives none but 0
    spin: np.ndarray | None = None  # (S,) multiplicity or unpaired electrons, as in the source; 0 where it says nothing
    rows: np.ndarray | None = None  # (S,) where each stands in the source; None: all in their order

    def __post_init__(self) -> None:
        for key in (*_PER_ATOM, *_PER_STRUCTURE, "ptr"):
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, np.ascontiguousarray(value, dtype=_DTYPES.get(key, np.float64)))
        if self.ptr.ndim != 1 or not len(self.ptr) or self.ptr[0] != 0 or np.any(np.diff(self.ptr) < 0):
            raise InputError("`ptr` must be ascending row pointers from 0", where=self.name, got=str(self.ptr.shape))
        expected = {key: (len(self), *tail) for key, tail in _PER_STRUCTURE.items()}
        expected |= {key: (int(self.ptr[-1]), *tail) for key, tail in _PER_ATOM.items()}
        for key, shape in expected.items():
            value = getattr(self, key)
            if value is not None and value.shape != shape:
                raise InputError(
                    f"`{key}` has the wrong shape", where=self.name, expected=str(shape), got=str(value.shape)
                )

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def n_atoms(self) -> Int[np.ndarray, " S"]:
        """Number of atoms of each structure."""
        return np.diff(self.ptr)

    @property
    def rows_in_source(self) -> Int[np.ndarray, " S"]:
        """The number of each structure where it was read from, whatever has been left out since."""
        return np.arange(len(self)) if self.rows is None else self.rows

    def elements(self) -> list[int]:
        """The atomic numbers that occur, ascending."""
        return [int(number) for number in np.unique(self.numbers)]

    def labelled(self, quantity: str) -> Bool[np.ndarray, " S"]:
        """Which structures carry the label `quantity` ("energy", "forces" or "stress")."""
        if quantity not in ("energy", "forces", "stress"):
            raise ConfigError(f'unknown label "{quantity}"', remedy=nearest(quantity, ("energy", "forces", "stress")))
        values = getattr(self, quantity)
        if values is None:
            return np.zeros(len(self), dtype=np.bool_)
        if quantity == "forces":
            values = (
                values[np.minimum(self.ptr[:-1], max(len(values) - 1, 0))] if len(values) else np.zeros((len(self), 1))
            )
        return np.asarray(~np.isnan(values).reshape(len(self), -1).any(axis=1))

    def subset(self, index: Rows) -> Structures:
        """The chosen structures, in the given order; `splits` are dropped as their rows no longer hold.

        Args:
            index: row numbers, a boolean mask or a slice.

        Raises:
            ConfigError: a row number outside the set.
        """
        rows = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise ConfigError(
                "row number outside the set",
                where=self.name,
                expected=f"0 to {len(self) - 1}",
                got=str(int(rows.min() if rows.min() < 0 else rows.max())),
            )
        counts = self.n_atoms[rows]
        ptr = np.concatenate([[0], np.cumsum(counts)])
        atoms = np.repeat(self.ptr[:-1][rows] - ptr[:-1], counts) + np.arange(ptr[-1])
        return replace(
            self,
            numbers=self.numbers[atoms],
            pos=self.pos[atoms],
            ptr=ptr,
            cell=self.cell[rows],
            pbc=self.pbc[rows],
            energy=None if self.energy is None else self.energy[rows],
            forces=None if self.forces is None else self.forces[atoms],
            stress=None if self.stress is None else self.stress[rows],
            charge=None if self.charge is None else self.charge[rows],
            spin=None if self.spin is None else self.spin[rows],
            rows=self.rows_in_source[rows],
            splits={},
        )

    def without_hydrogens(self) -> Structures:
        """The same structures without their hydrogen atoms and without labels, which no longer hold.

        Raises:
            InputError: a structure of nothing but hydrogen.
        """
        kept = self.numbers != 1
        counts = np.add.reduceat(kept, self.ptr[:-1])
        if (counts == 0).any():
            raise InputError("a structure has no atom but hydrogen", where=f"{self.name}, row {int(counts.argmin())}")
        return replace(
            self,
            numbers=self.numbers[kept],
            pos=self.pos[kept],
            ptr=np.concatenate([[0], np.cumsum(counts)]),
            energy=None,
            forces=None,
            stress=None,
        )

    def split(self, name: str) -> Structures:
        """The structures of a named split, such as "train", "test_1" or "config_type/Elastic"."""
        if name not in self.splits:
            remedy = nearest(name, self.splits) if self.splits else "this set has no splits"
            raise ConfigError(f'unknown split "{name}"', where=self.name, remedy=remedy)
        return replace(self.subset(self.splits[name]), name=f"{self.name}[{name}]")

    def to_atoms(self, i: int) -> ase.Atoms:
        """Structure i as `ase.Atoms`, its labels in a SinglePointCalculator (stress as Voigt 6), charge and spin in
        `info` where they are not 0.
        """
        i = range(len(self))[i]
        rows = slice(int(self.ptr[i]), int(self.ptr[i + 1]))
        atoms = ase.Atoms(numbers=self.numbers[rows], positions=self.pos[rows], cell=self.cell[i], pbc=self.pbc[i])
        for key in ("charge", "spin"):
            values = getattr(self, key)
            if values is not None and values[i]:
                atoms.info[key] = values[i].item()
        results: dict[str, float | np.ndarray] = {}
        if self.energy is not None and not np.isnan(self.energy[i]):
            results["energy"] = float(self.energy[i])
        if self.forces is not None and not np.isnan(self.forces[rows]).any():
            results["forces"] = self.forces[rows].copy()
        if self.stress is not None and not np.isnan(self.stress[i]).any():
            results["stress"] = matrix_to_voigt(self.stress[i])
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    @classmethod
    def from_atoms(
        cls,
        frames: Sequence[ase.Atoms],
        *,
        name: str = "atoms",
        source: str = "ase.Atoms, eV and Å",
        energy_key: str | None = None,
        forces_key: str | None = None,
        stress_key: str | None = None,
    ) -> Structures:
        """From `ase.Atoms`; labels are read from the calculator's stored results, `info` and `arrays`, and charge and
        spin from `info`, or the charge from the sum of initial charges.

        No calculation is started. A key selects another label, e.g. `energy_key="REF_energy"`.

        Raises:
            InputError: no structures, a label of the wrong shape, or a charge or spin that is no number.
        """
        if not len(frames):
            raise InputError("no structures", where=name)
        labels = [
            labels_of_atoms(a, f"{name}, frame {i}", energy_key, forces_key, stress_key) for i, a in enumerate(frames)
        ]
        counts = [len(atoms) for atoms in frames]
        joined = join_labels(labels, counts)
        charged = [charge_of_atoms(atoms, f"{name}, frame {i}") for i, atoms in enumerate(frames)]
        return cls(
            name=name,
            numbers=np.concatenate([atoms.numbers for atoms in frames]),
            pos=np.concatenate([atoms.positions for atoms in frames]),
            ptr=np.concatenate([[0], np.cumsum(counts)]),
            cell=np.stack([atoms.cell.array for atoms in frames]),
            pbc=np.stack([atoms.pbc for atoms in frames]),
            energy=joined["energy"],
            forces=joined["forces"],
            stress=joined["stress"],
            charge=none_if_zero([charge for charge, _ in charged]),
            spin=none_if_zero([spin for _, spin in charged]),
            source=source,
        )

    def content_hash(self) -> str:
        """SHA-256 of the arrays: structures and labels, not name, splits, source, nor charge and spin, which no model
        reads.
        """
        digest = hashlib.sha256()
        for key in ("numbers", "pos", "ptr", "cell", "pbc", "energy", "forces", "stress"):
            value = getattr(self, key)
            digest.update(
                f"{key}:none".encode() if value is None else f"{key}:{value.dtype.str}:{value.shape}".encode()
            )
            if value is not None:
                digest.update(value.tobytes())
        return digest.hexdigest()
