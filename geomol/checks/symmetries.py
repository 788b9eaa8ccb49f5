"""What must not change when a structure is moved, turned, renumbered, repeated or batched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from geomol.checks.forces import energy_of, forces_of
from geomol.geometry import random_rotations
from geomol.graph import build_graph
from geomol.nn import device_of
from geomol.potential import Potential


def turned(atoms: Atoms, rotation: np.ndarray) -> Atoms:
    """The structure, its cell included, under a rotation or reflection (rows are vectors: x → R x)."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ rotation.T, scale_atoms=False)
    copy.positions = atoms.positions @ rotation.T
    return copy


def rotation_errors(
    potential: Potential, atoms: Atoms, num: int, *, seed: int = 0, reflect: bool = False, relative: bool = True
) -> tuple[float, float]:
    """Largest error of energy and forces (eV/Å) over random rotations (times −1 if `reflect`).

    Energies are compared relative to 1 + the interaction energy (the offsets E0 would hide any error), or in eV.
    """
    rotations = random_rotations(num, generator=torch.Generator().manual_seed(seed)).numpy() * (-1 if reflect else 1)
    graph = build_graph([atoms, *(turned(atoms, r) for r in rotations)], potential.cutoff, device=device_of(potential))
    out = potential(graph)
    assert out.forces is not None
    energy, forces = out.energy.cpu().numpy(), out.forces.cpu().numpy().reshape(num + 1, -1, 3)
    energy_error = np.abs(energy[1:] - energy[0]).max()
    if relative:
        energy_error /= 1 + abs(energy[0] - offset_energy(potential, atoms))
    back = np.einsum("rij,rnj->rni", rotations, np.broadcast_to(forces[0], forces[1:].shape))
    return float(energy_error), float(np.abs(forces[1:] - back).max())


def offset_energy(potential: Potential, atoms: Atoms) -> float:
    """Σ E0: the energy of the isolated atoms as the model counts them."""
    e0 = dict(zip(potential.elements, potential.e0_values, strict=True))
    return sum(e0[z] for z in atoms.numbers.tolist())


def translation_error(potential: Potential, atoms: Atoms, distance: float) -> float:
    """Change of the energy, relative to 1 + |E|, when everything moves by `distance` (Å) along a generic direction."""
    moved = atoms.copy()
    moved.positions += distance * np.array([0.48, -0.6, 0.64])
    before, after = energy_of(potential, [atoms, moved])
    return float(abs(after - before) / (1 + abs(before)))


def permutation_error(potential: Potential, atoms: Atoms, num: int, *, seed: int = 0) -> float:
    """Largest relative change of the energy over random renumberings."""
    rng = np.random.default_rng(seed)
    energy = energy_of(potential, [atoms, *(atoms[rng.permutation(len(atoms))] for _ in range(num))])
    return float(np.abs(energy[1:] - energy[0]).max() / (1 + abs(energy[0])))


def net_force_and_torque(potential: Potential, atoms: Atoms) -> tuple[float, float]:
    """|Σ F| (eV/Å) and |Σ (x − x̄) × F| (eV) of a non-periodic structure."""
    forces = forces_of(potential, atoms)
    arms = atoms.positions - atoms.positions.mean(axis=0)
    return float(np.abs(forces.sum(axis=0)).max()), float(np.abs(np.cross(arms, forces).sum(axis=0)).max())


def separability_error(potential: Potential, atoms: Atoms, copies: int, *, distance: float = 1000.0) -> float:
    """|E(copies far apart) − copies · E(one)| per copy, relative to 1 + |E(one)|."""
    spread = atoms.copy()
    for k in range(1, copies):
        other = atoms.copy()
        other.positions += k * distance * np.array([0.36, 0.48, 0.8])
        spread += other
    one, many = energy_of(potential, [atoms, spread])
    return float(abs(many / copies - one) / (1 + abs(one)))


def supercell_error(potential: Potential, atoms: Atoms, repeat: tuple[int, int, int]) -> float:
    """|E(supercell) − n E(cell)| / n, relative to 1 + |E(cell)|: small cells see their own images."""
    one, many = energy_of(potential, [atoms, atoms.repeat(repeat)])
    return float(abs(many / np.prod(repeat) - one) / (1 + abs(one)))


def batch_error(potential: Potential, structures: Sequence[Atoms]) -> tuple[float, float]:
    """Largest difference of energies (relative) and forces (eV/Å) between one batch and single evaluations."""
    device = device_of(potential)
    out = potential(build_graph(structures, potential.cutoff, device=device))
    assert out.forces is not None
    singles = [potential(build_graph(atoms, potential.cutoff, device=device)) for atoms in structures]
    energy = torch.cat([s.energy for s in singles])
    forces = torch.cat([s.forces for s in singles if s.forces is not None])
    energy_error = ((out.energy - energy).abs() / (1 + energy.abs())).max()
    return float(energy_error), float((out.forces - forces).abs().max())
