"""Forces and stress against finite differences of the energy, and the properties that only a true gradient has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from geomol.graph import build_graph
from geomol.nn import device_of
from geomol.potential import Potential, hessian_vector

_WITH_ROTATIONS = ("E(3)", "SE(3)", "O(3)", "SO(3)")  # groups that hold all of them


def energy_of(potential: Potential, structures: Sequence[Atoms]) -> np.ndarray:
    """Energies (eV) of structures of the same or different size, in one batch."""
    graph = build_graph(structures, potential.cutoff, device=device_of(potential))
    return np.asarray(potential(graph, forces=False).energy.cpu())


def forces_of(potential: Potential, atoms: Atoms) -> np.ndarray:
    """Forces (N, 3), eV/Å."""
    forces = potential(build_graph(atoms, potential.cutoff, device=device_of(potential))).forces
    assert forces is not None
    return np.asarray(forces.cpu())


def central_difference_forces(potential: Potential, atoms: Atoms, step: float) -> np.ndarray:
    """−(E(x + h) − E(x − h)) / 2h for every atom and axis."""
    moved = []
    for i in range(len(atoms)):
        for axis in range(3):
            for sign in (1, -1):
                copy = atoms.copy()
                copy.positions[i, axis] += sign * step
                moved.append(copy)
    energy = energy_of(potential, moved).reshape(len(atoms), 3, 2)
    return np.asarray((energy[..., 1] - energy[..., 0]) / (2 * step))


def force_error(potential: Potential, atoms: Atoms, step: float = 1e-4) -> float:
    """Largest difference between forces and Richardson-extrapolated central differences, relative to 1 + max |F|."""
    forces = forces_of(potential, atoms)
    coarse, fine = (central_difference_forces(potential, atoms, h) for h in (2 * step, step))
    return float(np.abs(forces - (4 * fine - coarse) / 3).max() / (1 + np.abs(forces).max()))


def force_error_order(potential: Potential, atoms: Atoms, step: float = 0.02) -> float:
    """Factor by which the plain central-difference error falls when the step halves: 4 for a smooth energy."""
    forces = forces_of(potential, atoms)
    errors = [np.abs(central_difference_forces(potential, atoms, h) - forces).max() for h in (step, step / 2)]
    return float(errors[0] / errors[1])


def stress_error(potential: Potential, atoms: Atoms, step: float = 1e-4) -> tuple[float, float]:
    """Largest difference (eV/Å³) between the stress and finite strain in all 9 components; and the size of the stress.

    An exactly rotation-invariant potential is strained by each component alone. The antisymmetric part of such a strain
    is a rotation, so one that is not invariant, or only nearly or on average, is strained symmetrically instead.
    """
    stress = potential(build_graph(atoms, potential.cutoff, device=device_of(potential)), stress=True).stress
    assert stress is not None
    claimed = potential.symmetry
    turns = claimed.group in _WITH_ROTATIONS and claimed.exact and not claimed.stochastic
    strained = []
    for a in range(3):
        for b in range(3):
            for h in (step, -step, 2 * step, -2 * step):
                copy = atoms.copy()
                component = np.zeros((3, 3))
                component[a, b] = h
                if not turns:
                    component = (component + component.T) / 2
                copy.set_cell(atoms.cell.array @ (np.eye(3) + component), scale_atoms=False)
                copy.positions = atoms.positions @ (np.eye(3) + component)
                strained.append(copy)
    e = energy_of(potential, strained).reshape(3, 3, 4)
    numeric = (8 * (e[..., 0] - e[..., 1]) - (e[..., 2] - e[..., 3])) / (12 * step) / atoms.get_volume()
    found = stress[0].cpu().numpy()
    return float(np.abs(found - numeric).max()), float(np.abs(found).max())


def jacobian_antisymmetry(potential: Potential, atoms: Atoms) -> float:
    """‖J − Jᵀ‖ / ‖J + Jᵀ‖ of the force Jacobian: 0 for a gradient field, about 1 for a field that is none."""
    graph = build_graph(atoms, potential.cutoff, device=device_of(potential))
    size = 3 * len(atoms)
    rows = [
        hessian_vector(potential, graph, unit.view(-1, 3).to(graph.pos)).flatten()
        for unit in torch.eye(size, dtype=graph.pos.dtype)
    ]
    hessian = torch.stack(rows)
    total = (hessian + hessian.mT).norm()
    return float((hessian - hessian.mT).norm() / total) if total > 0 else 0.0


def cutoff_jumps(
    potential: Potential, elements: Sequence[int], delta: float = 1e-6, seed: int = 0
) -> tuple[float, float]:
    """Energy (eV) and force (eV/Å) jump when an atom crosses the cutoff of a receiver inside a crowd of 24 neighbours.

    What the slope explains is taken off: the energy change over ±delta is compared with the forces on both sides, the
    force change with that over an equal step just inside. A steep but smooth energy thus gives no jump.
    """
    rng = np.random.default_rng(seed)
    cutoff = potential.cutoff
    directions = rng.normal(size=(24, 3))
    crowd = directions / np.linalg.norm(directions, axis=1)[:, None] * cutoff * rng.uniform(0.45, 0.9, size=(24, 1))
    energy_jump = force_jump = 0.0
    for z in elements:
        numbers = np.concatenate([[z], rng.choice(elements, 24), [rng.choice(elements)]])
        places = []
        for offset in (-3 * delta, -delta, delta):
            edge = np.array([[0.0, 0.0, cutoff + offset]])
            places.append(Atoms(numbers, np.concatenate([np.zeros((1, 3)), crowd, edge])))
        energy = energy_of(potential, places)
        further_inside, inside, outside = (forces_of(potential, atoms) for atoms in places)
        slope = -(inside[-1, 2] + outside[-1, 2]) / 2
        energy_jump = max(energy_jump, abs(float(energy[2] - energy[1] - 2 * delta * slope)))
        force_jump = max(force_jump, float(np.abs(outside - 2 * inside + further_inside).max()))
    return energy_jump, force_jump
