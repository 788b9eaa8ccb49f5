"""The structures of the comparison: the same positions for every model, and a checksum of them."""

from __future__ import annotations

import hashlib

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read

RATTLE = 0.05  # Å: a perfect lattice has no forces to compare


def structure(name: str) -> Atoms:
    """ "ethanol", "aspirin" (first frame of rMD17), "cuN" with N = 4 a b c atoms of fcc copper, or a file ASE reads."""
    if name.startswith("cu") and name[2:].isdigit():
        return _copper(int(name[2:]))
    if name.endswith((".xyz", ".extxyz", ".traj", ".cif")):
        found = read(name, index=0)
        return Atoms(found.numbers, found.positions, cell=found.cell, pbc=found.pbc)
    from geomol.data import load_structures

    frame = load_structures(f"rmd17/{name}").to_atoms(0)
    return Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)


def checksum(atoms: Atoms) -> str:
    """SHA-256 of elements, positions and cell."""
    digest = hashlib.sha256()
    for values in (atoms.numbers.astype("<i8"), atoms.positions.astype("<f8"), np.asarray(atoms.cell, dtype="<f8")):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _copper(number: int) -> Atoms:
    """A × b × c cells of 4 atoms, the nearest to a cube; none where one side would be more than three times another."""
    quarter = number // 4
    sides = [
        (quarter // (b * c), b, c)
        for b in range(1, int(quarter**0.5) + 1)
        if quarter % b == 0
        for c in range(1, b + 1)
        if (quarter // b) % c == 0
    ]
    a, b, c = min(sides, key=lambda side: max(side) / min(side), default=(0, 1, 1))
    if number % 4 or not 0 < max(a, b, c) <= 3 * min(a, b, c):
        raise ValueError(f"fcc cells have 4 a b c atoms, for example 256, 1000 or 10000, not {number}")
    atoms = bulk("Cu", "fcc", a=3.615, cubic=True) * (a, b, c)
    atoms.rattle(RATTLE, seed=0)
    return atoms
