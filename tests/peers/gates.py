"""What a model must pass before its time counts: forces that are the gradient, an energy that does not turn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from .process import Worker

DIRECTIONS = 4


@dataclass(frozen=True)
class Tolerances:
    """Step of the central difference, along a random unit vector of all coordinates, and the largest errors.

    The step is taken √N times, so that an atom moves alike in small and large structures: rounding of the energy, which
    grows with N, would else hide the difference in single precision.
    """

    step: float  # Å
    gradient: float  # of the rms force; the difference itself is off by step² and by rounding / step
    rotation: float  # of rms force × √N × 1 Å; constants of single precision leave about 1e-7


# float32 is for packages whose calculator knows nothing else
TOLERANCES = {"float64": Tolerances(3e-4, 1e-4, 1e-4), "float32": Tolerances(1e-2, 3e-2, 1e-2)}


@dataclass(frozen=True)
class Gate:
    """Errors of one model on one structure, in float64 where it can, and whether they pass.

    `gradient_error` is the largest |(E(x+hv) − E(x−hv)) / 2h + F·v| over the rms of F·v that a random v gives, |F|/√3N.
    `rotation_error` is the largest |E(Rx) − E(x)| over (rms force × √N × 1 Å), cell turned too. A model that is
    symmetric only approximately (`exact` False: a fixed grid of orientations) is not failed for it; read the error.
    Where the forces are the gradient with `held` held (see `models.Peer`), `gradient_error` is with it held, and
    `free_gradient_error` the same error without, which fails no model; read it.
    `precision_error` is the rms difference of the float32 forces from the float64 ones of the same weights, eV/Å, and
    `rms_force` the rms of a force component, eV/Å, beside which to read it.
    """

    passed: bool
    reason: str
    gradient_error: float
    rotation_error: float
    rms_force: float
    dtype: str
    exact: bool
    precision_error: float | None = None
    held: str = ""
    free_gradient_error: float | None = None

    def figures(self) -> dict[str, Any]:
        return asdict(self)


def check(
    worker: Worker, atoms: Atoms, *, dtype: str = "float64", exact: bool = True, held: str = "", seed: int = 0
) -> tuple[Gate, np.ndarray]:
    """Runs the gate on the calculator that `worker` has built in this precision; also its forces at `atoms`."""
    limits = TOLERANCES[dtype]
    rng = np.random.default_rng(seed)
    cell = atoms.cell.tolist()
    energy, forces = evaluate_held(worker, atoms, held)
    rms = float(np.sqrt(np.mean(forces**2)))
    if not np.isfinite(energy) or not np.isfinite(forces).all() or rms == 0.0:
        return Gate(False, "energy or forces not finite, or no force at all", np.inf, np.inf, rms, dtype, exact), forces
    free = None
    if held:
        worker.ask("hold", positions=atoms.positions.tolist(), cell=cell)
    gradient = _gradient_error(worker, atoms, forces, limits.step, seed) / rms
    if held:
        worker.ask("hold")
        free = _gradient_error(worker, atoms, forces, limits.step, seed) / rms
        energy, _ = evaluate(worker, atoms.positions, cell)
    rotation = 0.0
    for turn in Rotation.random(2, rng=rng).as_matrix():
        turned, _ = evaluate(worker, atoms.positions @ turn.T, (np.asarray(cell) @ turn.T).tolist())
        rotation = max(rotation, abs(turned - energy) / (rms * len(atoms) ** 0.5))
    reasons = []
    if not gradient <= limits.gradient:
        reasons.append(f"forces are not the gradient of the energy (error {gradient:.1e} of the rms force)")
    if exact and not rotation <= limits.rotation:
        reasons.append(f"the energy changes under rotation (error {rotation:.1e})")
    found = Gate(
        not reasons, "; ".join(reasons), gradient, rotation, rms, dtype, exact, held=held, free_gradient_error=free
    )
    return found, forces


def _gradient_error(worker: Worker, atoms: Atoms, forces: np.ndarray, step: float, seed: int) -> float:
    """The largest |(E(x+hv) − E(x−hv)) / 2h + F·v| over random unit vectors v, eV/Å."""
    rng, cell, largest = np.random.default_rng(seed), atoms.cell.tolist(), 0.0
    step *= len(atoms) ** 0.5
    for _ in range(DIRECTIONS):
        v = rng.normal(size=forces.shape)
        v /= np.linalg.norm(v)
        up, _ = evaluate(worker, atoms.positions + step * v, cell)
        down, _ = evaluate(worker, atoms.positions - step * v, cell)
        largest = max(largest, abs((up - down) / (2 * step) + float((forces * v).sum())))
    return largest


def evaluate_held(worker: Worker, atoms: Atoms, held: str) -> tuple[float, np.ndarray]:
    """As `evaluate`, with what the model has to hold as it is at these atoms, if anything, and then let go."""
    cell = atoms.cell.tolist()
    if held:
        worker.ask("hold", positions=atoms.positions.tolist(), cell=cell)
    found = evaluate(worker, atoms.positions, cell)
    if held:
        worker.ask("hold")
    return found


def evaluate(worker: Worker, positions: np.ndarray, cell: list[list[float]]) -> tuple[float, np.ndarray]:
    """Energy (eV) and forces (eV/Å) of a worker's calculator."""
    reply = worker.ask("evaluate", positions=positions.tolist(), cell=cell)
    return float(reply["energy"]), np.asarray(reply["forces"], dtype=np.float64)
