"""Molecules to be judged: atoms, the bonds that came with them, and the records that could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from geomol.data import Structures
from geomol.errors import InputError


@dataclass(frozen=True, eq=False)
class Molecules:
    """M molecules, of which some may be records that could not be read: those have no atoms and a fault.

    Raises:
        InputError: lists of another length, or bonds of another shape than their molecule.
    """

    structures: Structures
    orders: Sequence[np.ndarray | None] | None = None  # (n, n) int8 each; None where the bonds are not known
    charges: Sequence[np.ndarray | None] | None = None  # (n,) int64 each, formal charges
    faults: Mapping[int, str] = field(default_factory=dict)  # why a record could not be read
    properties: Sequence[Mapping[str, str]] = ()  # what else the file says of each molecule; empty for nothing

    def __post_init__(self) -> None:
        counts = self.structures.n_atoms.tolist()
        for name, values, tail in (("orders", self.orders, 2), ("charges", self.charges, 1)):
            if values is None:
                continue
            if len(values) != len(counts):
                raise InputError(f"`{name}` of another length", expected=str(len(counts)), got=str(len(values)))
            for i, (value, count) in enumerate(zip(values, counts, strict=True)):
                if value is not None and value.shape != (count,) * tail:
                    expected, got = str((count,) * tail), str(value.shape)
                    raise InputError(f"`{name}` has the wrong shape", where=f"molecule {i}", expected=expected, got=got)

    def __len__(self) -> int:
        return len(self.structures)

    def numbers(self, i: int) -> np.ndarray:
        """Atomic numbers (n,) of molecule i."""
        return np.asarray(self.structures.numbers[self.structures.ptr[i] : self.structures.ptr[i + 1]])

    def pos(self, i: int) -> np.ndarray:
        """Positions (n, 3) of molecule i, in Å."""
        return np.asarray(self.structures.pos[self.structures.ptr[i] : self.structures.ptr[i + 1]])

    def subset(self, rows: np.ndarray) -> Molecules:
        """The chosen molecules, in the given order."""
        chosen = [int(row) for row in rows]
        return Molecules(
            structures=self.structures.subset(np.asarray(chosen, dtype=np.int64)),
            orders=None if self.orders is None else [self.orders[row] for row in chosen],
            charges=None if self.charges is None else [self.charges[row] for row in chosen],
            faults={new: self.faults[row] for new, row in enumerate(chosen) if row in self.faults},
            properties=[self.properties[row] for row in chosen] if self.properties else (),
        )


def structures_of(
    numbers: Sequence[np.ndarray], pos: Sequence[np.ndarray], *, name: str, source: str = ""
) -> Structures:
    """Isolated molecules as a flat set; unlike in a data set, one may be without atoms.

    Args:
        numbers: atomic numbers (n,) of each.
        pos: positions (n, 3) of each, in Å.
    """
    counts = [len(part) for part in numbers]
    return Structures(
        name=name,
        numbers=np.concatenate([np.zeros(0, np.int64), *numbers]),
        pos=np.concatenate([np.zeros((0, 3)), *(np.asarray(part).reshape(-1, 3) for part in pos)]),
        ptr=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        cell=np.zeros((len(counts), 3, 3)),
        pbc=np.zeros((len(counts), 3), dtype=np.bool_),
        source=source,
    )
