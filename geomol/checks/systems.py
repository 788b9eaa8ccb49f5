"""Structures on which potentials are tested: symmetric molecules, thermally disordered ones, and crystals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule


def symmetric_molecules() -> dict[str, Atoms]:
    """Twelve systems in which equal eigenvalues, aligned edges or missing neighbours trouble a careless model.

    Geometries are idealised; only their symmetry matters. Elements can be exchanged with `with_elements`.
    """
    axis = {
        "H": Atoms("H", [[0.0, 0.0, 0.0]]),
        "N2": Atoms("N2", [[0.0, 0.0, 0.0], [0.0, 1.1, 0.0]]),
        "CO2": Atoms("OCO", [[-1.16, 0.0, 0.0], [0.0, 0.0, 0.0], [1.16, 0.0, 0.0]]),
        "C2H2": Atoms("HCCH", [[0.0, 0.0, z] for z in (-1.67, -0.6, 0.6, 1.67)]),
    }
    triangle = [[np.cos(a), np.sin(a), 0.0] for a in 2 * np.pi * np.arange(3) / 3]
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    octahedron = np.concatenate([np.eye(3), -np.eye(3)])
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / np.sqrt(3)
    centre = np.zeros((1, 3))
    return axis | {
        "BF3": Atoms("BF3", np.concatenate([centre, 1.31 * np.array(triangle)])),
        "CH4": Atoms("CH4", np.concatenate([centre, 1.09 * tetrahedron])),
        "NH4": Atoms("NH4", np.concatenate([centre, 1.03 * tetrahedron])),
        "C6H6": molecule("C6H6"),
        "SF6": Atoms("SF6", np.concatenate([centre, 1.56 * octahedron])),
        "cubane": Atoms("C8H8", np.concatenate([1.36 * cube, 2.45 * cube])),
        "C60": molecule("C60"),
        "octahedron": Atoms("C7", np.concatenate([centre, 2.0 * octahedron])),
    }


def disordered_molecules(num: int, *, seed: int = 0, displacement: float = 0.15) -> list[Atoms]:
    """Small organic molecules with every atom moved by Gaussian noise (Å), in changing orientation."""
    rng = np.random.default_rng(seed)
    names = ["CH3CH2OH", "C6H6", "CH3COOH", "H2O", "CH3NO2", "C4H4NH", "CH3OCH3", "HCN"]
    made = []
    for k in range(num):
        atoms = molecule(names[k % len(names)])
        atoms.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        atoms.positions += rng.normal(scale=displacement, size=atoms.positions.shape)
        made.append(atoms)
    return made


def disordered_crystals(num: int, *, seed: int = 0, displacement: float = 0.08) -> list[Atoms]:
    """Small periodic cells, down to one atom, strained, sheared and rattled; some left-handed, some slabs."""
    rng = np.random.default_rng(seed)
    kinds = [
        bulk("Cu"),
        bulk("Cu", cubic=True),
        bulk("Si", cubic=True),
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("Fe", "bcc", a=2.87).repeat((2, 1, 1)),
        bulk("Cu").repeat((1, 2, 2)),
    ]
    made = []
    for k in range(num):
        atoms = kinds[k % len(kinds)].copy()
        strain = np.eye(3) + rng.normal(scale=0.04, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        if k % 3 == 2:  # left-handed: exchange two lattice vectors
            atoms.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
        atoms.positions += rng.normal(scale=displacement, size=atoms.positions.shape)
        made.append(atoms)
    return made


def with_elements(atoms: Atoms, elements: Sequence[int]) -> Atoms:
    """A copy whose different elements are replaced, in order of appearance, by those that a model knows."""
    copy = atoms.copy()
    numbers = list(dict.fromkeys(atoms.numbers.tolist()))
    known = {z: (z if z in elements else elements[i % len(elements)]) for i, z in enumerate(numbers)}
    copy.numbers = [known[z] for z in atoms.numbers.tolist()]
    return copy
