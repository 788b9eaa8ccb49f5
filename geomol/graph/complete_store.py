"""Thousands of finite structures whose graphs are complete: nothing is kept but the atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from geomol.errors import InputError
from geomol.graph.complete import complete_graph
from geomol.graph.record import Graph


@dataclass(frozen=True, eq=False)
class CompleteStore:
    """As `GraphStore`, for complete graphs, whose edges are made with each batch instead of kept.

    A hundred thousand molecules of QM9 have 33 million edges, which would take half a gigabyte.

    Attributes:
        pos, numbers: atoms of all structures, one after the other; Å.
        sizes, starts: number of atoms and first atom of each structure.
    """

    pos: Float[Tensor, "A 3"]
    numbers: Int[Tensor, " A"]
    sizes: Int[Tensor, " S"]
    starts: Int[Tensor, " S"]

    @staticmethod
    def from_arrays(
        pos: ArrayLike,
        numbers: ArrayLike,
        ptr: ArrayLike,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> CompleteStore:
        """Structures from flat arrays.

        Raises:
            InputError: arrays of different lengths, or positions that are not finite.
        """
        atoms, z = np.asarray(pos, dtype=np.float64), np.asarray(numbers, dtype=np.int64)
        bounds = np.asarray(ptr, dtype=np.int64)
        if atoms.shape != (len(z), 3) or bounds[0] != 0 or bounds[-1] != len(z) or (np.diff(bounds) < 1).any():
            raise InputError("arrays do not make structures", expected="pos (A, 3), numbers (A,), ptr from 0 to A")
        if not np.isfinite(atoms).all():
            raise InputError("positions that are not finite")
        return CompleteStore(
            torch.from_numpy(atoms).to(device, dtype),
            torch.from_numpy(z).to(device),
            torch.from_numpy(np.diff(bounds)).to(device),
            torch.from_numpy(bounds[:-1].copy()).to(device),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def cutoff(self) -> float:
        return float("inf")

    def to(self, device: torch.device | str) -> CompleteStore:
        """The store on another device."""
        return replace(self, **{name: value.to(device) for name, value in self.__dict__.items()})

    def node_index(self, index: Tensor | Sequence[int]) -> Int[Tensor, " N"]:
        """Row of each atom of `batch(index)` in the flat arrays."""
        index = torch.as_tensor(index, dtype=torch.int64, device=self.pos.device)
        count = self.sizes[index]
        first = self.starts[index] - count.cumsum(0) + count
        total = int(count.sum())
        shift = torch.repeat_interleave(first, count, output_size=total)
        return shift + torch.arange(total, device=self.pos.device)

    def batch(self, index: Tensor | Sequence[int], *, rotation: Float[Tensor, "B 3 3"] | None = None) -> Graph:
        """The complete graph of some structures, positions x as R x where rotations are given."""
        index = torch.as_tensor(index, dtype=torch.int64, device=self.pos.device)
        rows = self.node_index(index)
        ptr = torch.nn.functional.pad(self.sizes[index].cumsum(0), (1, 0))
        pos = self.pos[rows]
        if rotation is not None:
            turn = rotation.to(pos).mT.contiguous()
            pos = torch.bmm(pos[:, None], torch.repeat_interleave(turn, self.sizes[index], dim=0))[:, 0]
        return complete_graph(pos, self.numbers[rows], ptr)
