"""Many structures side by side in flat tensors: what does not change during a simulation, and what does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.ops import segment_index, segment_sum


@dataclass(frozen=True, eq=False)
class Systems:
    """The atoms of a batch of structures, all of which are kept apart.

    Attributes:
        numbers: atomic numbers.
        masses: amu.
        ptr: first atom of each structure, and the number of atoms at the end.
        batch: structure of each atom.
        cell: lattice vectors as rows, Å (zeros where a structure has none).
        pbc: periodic directions.
    """

    numbers: Int[Tensor, " N"]
    masses: Float[Tensor, "N 1"]
    ptr: Int[Tensor, " P"]
    batch: Int[Tensor, " N"]
    cell: Float[Tensor, "G 3 3"]
    pbc: Bool[Tensor, "G 3"]

    @staticmethod
    def from_atoms(structures: Sequence[Atoms], device: torch.device | str = "cpu") -> Systems:
        """What the structures are; their positions are `positions_of`."""
        sizes = torch.tensor([len(atoms) for atoms in structures], dtype=torch.int64)
        ptr = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        return Systems(
            numbers=torch.from_numpy(np.concatenate([atoms.numbers for atoms in structures]).astype(np.int64)),
            masses=torch.from_numpy(np.concatenate([atoms.get_masses() for atoms in structures])[:, None]),
            ptr=ptr,
            batch=segment_index(ptr, int(ptr[-1])),
            cell=torch.from_numpy(np.array([atoms.cell.array for atoms in structures], dtype=np.float64)),
            pbc=torch.from_numpy(np.array([atoms.pbc for atoms in structures], dtype=bool)),
        ).to(device)

    def __len__(self) -> int:
        return self.ptr.shape[0] - 1

    def to(self, device: torch.device | str) -> Systems:
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    def rows(self, keep: Sequence[int]) -> Int[Tensor, " M"]:
        """The atoms of some structures, one after the other."""
        bounds = self.ptr.tolist()
        parts = [torch.arange(bounds[k], bounds[k + 1], device=self.ptr.device) for k in keep]
        return torch.cat(parts) if parts else self.ptr.new_zeros(0)

    def select(self, keep: Sequence[int]) -> Systems:
        """Some of the structures."""
        rows, index = self.rows(keep), torch.tensor(keep, dtype=torch.int64, device=self.ptr.device)
        ptr = torch.nn.functional.pad(self.ptr.diff()[index].cumsum(0), (1, 0))
        return Systems(
            self.numbers[rows],
            self.masses[rows],
            ptr,
            segment_index(ptr, len(rows)),
            self.cell[index],
            self.pbc[index],
        )


@dataclass(frozen=True, eq=False)
class BatchedState:
    """What a step changes, in ASE's units (Å, eV, amu, and the time Å √(amu/eV)); float64.

    Attributes:
        pos: positions, never wrapped.
        momenta: of each atom.
        forces: at these positions, eV/Å.
        energy: potential energy of each structure, eV.
    """

    pos: Float[Tensor, "N 3"]
    momenta: Float[Tensor, "N 3"]
    forces: Float[Tensor, "N 3"]
    energy: Float[Tensor, " G"]

    def select(self, systems: Systems, keep: Sequence[int]) -> BatchedState:
        """The state of some of the structures of `systems`."""
        rows, index = systems.rows(keep), torch.tensor(keep, dtype=torch.int64, device=self.pos.device)
        return BatchedState(self.pos[rows], self.momenta[rows], self.forces[rows], self.energy[index])


def positions_of(structures: Sequence[Atoms], device: torch.device | str = "cpu") -> Float[Tensor, "N 3"]:
    """Positions of all atoms, one structure after the other, Å."""
    return torch.from_numpy(np.concatenate([a.positions for a in structures]).astype(np.float64)).to(device)


def momenta_of(structures: Sequence[Atoms], device: torch.device | str = "cpu") -> Float[Tensor, "N 3"]:
    """Momenta of all atoms, one structure after the other, in ASE's unit."""
    return torch.from_numpy(np.concatenate([a.get_momenta() for a in structures]).astype(np.float64)).to(device)


def kinetic_energy(systems: Systems, momenta: Float[Tensor, "N 3"]) -> Float[Tensor, " G"]:
    """½ Σ p²/m of each structure, eV."""
    return segment_sum(0.5 * (momenta.square() / systems.masses).sum(1), systems.ptr)
