"""What must hold before a time counts: forces that are the gradient, an energy that does not turn, the same bits again.

The errors of a model are those of its float64 form; each form of it (plain, compiled, packaged) is then compared with
the same weights in float64.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import cast

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from geomol.checks import energy_of, forces_of, rotation_errors
from geomol.errors import InputError
from geomol.md import Estimate, GeomolCalculator, MDConfig, energy_drift
from geomol.md.integrators import draw_momenta
from geomol.models import Symmetry
from geomol.potential import Potential

DIRECTIONS, STEP = 4, 3e-4  # of central differences; Å for each atom
ROTATIONS = 4
REPEATS = 100
LARGEST_GRADIENT_ERROR = LARGEST_ROTATION_ERROR = 1e-4
AT_REST = 1e-4  # eV/Å, rms force below which errors relative to it are those of rounding
# largest rms error of the force, of its rms, by the digits of products: float32, TF32, bfloat16. Beyond it a form
# computes another function
LARGEST_ROUNDING = {"highest": 1e-3, "high": 1e-2, "medium": 3e-2}
KELVIN, STEP_FS, DRIFT_STEPS, DRIFT_SECONDS = 300.0, 0.5, 400, 20.0


@dataclass(frozen=True)
class ModelGates:
    """Errors of a model in float64 on one structure.

    Attributes:
        gradient_error: largest |(E(x + hv) − E(x − hv)) / 2h + F·v| over random directions v, of its rms |F| / √3N.
        rotation_error: largest |E(Rx) − E(x)| over random rotations, of (rms force × √N × 1 Å).
        is_exact: whether the model claims to be invariant exactly; one that does not is not failed for its error.
        rms_force: of a component, eV/Å.
    """

    gradient_error: float
    rotation_error: float
    is_exact: bool
    rms_force: float

    @property
    def failed(self) -> list[str]:
        """What does not hold, in words."""
        found = []
        if not self.gradient_error <= LARGEST_GRADIENT_ERROR:
            found.append("the forces are not the gradient of the energy")
        if self.is_exact and not self.rotation_error <= LARGEST_ROTATION_ERROR:
            found.append("the energy changes with the pose")
        return found


@dataclass(frozen=True)
class FormGates:
    """One form of a model beside the same weights in float64, and beside itself.

    Attributes:
        energy_error_eV: |ΔE|.
        force_max_eV_per_A, force_rms_eV_per_A: largest and rms difference of a component.
        other_bits: how many of `REPEATS` further calls gave other bits.
    """

    energy_error_eV: float  # noqa: N815
    force_max_eV_per_A: float  # noqa: N815
    force_rms_eV_per_A: float  # noqa: N815
    other_bits: int

    def failed(self, rms_force: float, products: str = "highest") -> list[str]:
        """What does not hold, in words."""
        found = [] if self.other_bits == 0 else ["calls give different bits"]
        if not self.force_rms_eV_per_A <= LARGEST_ROUNDING[products] * rms_force:
            found.append("the forces are not those of float64")
        return found


def in_float64(potential: Potential) -> Potential:
    """A copy with the same weights in float64."""
    return copy.deepcopy(potential).double()


def check_model(exact: Potential, atoms: Atoms, *, seed: int = 0) -> ModelGates:
    """The gates of a model.

    Args:
        exact: in float64.
        atoms: a structure that is not at rest: errors are relative to its forces.
        seed: of directions and rotations.

    Raises:
        InputError: atoms at rest, or a single one.
    """
    forces = forces_of(exact, atoms)
    rms = float(np.sqrt(np.mean(forces**2)))
    if rms < AT_REST:
        raise InputError(
            "the structure is at rest, so nothing can be said of errors relative to its forces",
            expected=f"an rms force of at least {AT_REST:g} eV/Å",
            got=f"{rms:.1e} eV/Å for {len(atoms)} atoms",
            remedy="displace its atoms, or take a frame of a simulation",
        )
    rng, worst = np.random.default_rng(seed), 0.0
    step = STEP * np.sqrt(len(atoms))  # a unit vector of all coordinates moves each atom by about STEP
    for _ in range(DIRECTIONS):
        along = rng.normal(size=forces.shape)
        along /= np.linalg.norm(along)
        moved = []
        for sign in (1, -1):
            moved.append(atoms.copy())
            moved[-1].positions += sign * step * along
        ahead, behind = energy_of(exact, moved)
        worst = max(worst, abs((ahead - behind) / (2 * step) + float((forces * along).sum())))
    turned, _ = rotation_errors(exact, atoms, ROTATIONS, seed=seed, relative=False)
    scale = rms * np.sqrt(len(atoms))
    claimed = cast(Symmetry, exact.backbone.symmetry)
    is_exact = claimed.exact and claimed.group in ("E(3)", "SE(3)", "O(3)", "SO(3)")
    # a random direction sees |F| / √3N of the force on average, which is the rms of a component
    return ModelGates(worst / rms, float(turned) / scale, is_exact, rms)


def check_form(calculator: GeomolCalculator, exact: Potential, atoms: Atoms, *, repeats: int = REPEATS) -> FormGates:
    """The gates of one form of the model whose float64 form is `exact`."""
    energy, forces = _call(calculator, atoms)
    others = 0
    for _ in range(repeats):
        again = _call(calculator, atoms)
        others += not (again[0] == energy and np.array_equal(again[1], forces))
    error = forces - forces_of(exact, atoms)
    reference = float(energy_of(exact, [atoms])[0])
    return FormGates(abs(energy - reference), float(np.abs(error).max()), float(np.sqrt(np.mean(error**2))), others)


def measure_drift(
    calculator: GeomolCalculator, atoms: Atoms, *, steps: int = DRIFT_STEPS, seconds: float = DRIFT_SECONDS
) -> tuple[Estimate, int]:
    """Drift of the total energy in a run at constant energy from 300 K, meV per atom per ns, and its steps.

    Args:
        calculator: of the forces.
        atoms: where the run begins.
        steps: of 0.5 fs.
        seconds: the run ends earlier than its steps if it takes longer, though not before 20 of them.
    """
    atoms = atoms.copy()
    draw_momenta(atoms, MDConfig(temperature_K=KELVIN), np.random.default_rng(0))
    atoms.calc = calculator
    dynamics = VelocityVerlet(atoms, timestep=STEP_FS * units.fs)
    totals, begin = [atoms.get_total_energy()], time.perf_counter()
    while len(totals) <= steps and (len(totals) <= 20 or time.perf_counter() - begin < seconds):
        dynamics.run(1)
        totals.append(atoms.get_total_energy())
    done = len(totals) - 1
    return energy_drift(STEP_FS * np.arange(done + 1), np.array(totals), len(atoms)), done


def _call(calculator: GeomolCalculator, atoms: Atoms) -> tuple[float, np.ndarray]:
    calculator.calculate(atoms)
    return float(calculator.results["energy"]), np.array(calculator.results["forces"])
