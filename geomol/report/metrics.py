"""Errors of predictions against references, recomputed from the arrays of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from numpy import ndarray

from geomol.md import Estimate, energy_drift

MEV_PER_EV = 1e3
FS_PER_NS = 1e6


@dataclass(frozen=True)
class Errors:
    """Mean absolute, root-mean-square and largest absolute error, in the unit of the data, over `count` numbers."""

    mae: float
    rmse: float
    largest: float
    count: int


@dataclass(frozen=True)
class ElementErrors:
    """Force errors of the atoms of one element.

    `scale` is the RMS force component of the reference (eV/Å), `angle` the median angle between predicted and
    reference force (degrees), `atoms` how many force vectors were compared.
    """

    symbol: str
    atoms: int
    errors: Errors
    scale: float
    angle: float


def errors(reference: Float[ndarray, "*shape"], predicted: Float[ndarray, "*shape"]) -> Errors:
    """MAE, RMSE and maximum over all components; NaN where either side is not a number."""
    if reference.size == 0:
        return Errors(mae=float("nan"), rmse=float("nan"), largest=float("nan"), count=0)
    deviation = np.abs(np.asarray(predicted, dtype=np.float64) - np.asarray(reference, dtype=np.float64))
    return Errors(
        mae=float(deviation.mean()),
        rmse=float(np.sqrt((deviation**2).mean())),
        largest=float(deviation.max()),
        count=int(deviation.size),
    )


def force_angles(reference: Float[ndarray, "A 3"], predicted: Float[ndarray, "A 3"]) -> Float[ndarray, " A"]:
    """Angle between predicted and reference force of each atom, in degrees; NaN where a force vanishes.

    Uses 2 atan2(|û − v̂|, |û + v̂|), which unlike arccos keeps its accuracy at small angles.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        u = reference / np.linalg.norm(reference, axis=1, keepdims=True)
        v = predicted / np.linalg.norm(predicted, axis=1, keepdims=True)
    half = np.arctan2(np.linalg.norm(u - v, axis=1), np.linalg.norm(u + v, axis=1))
    angle: Float[ndarray, " A"] = np.degrees(2 * half)
    return angle


def element_errors(
    numbers: Int[ndarray, " A"], reference: Float[ndarray, "A 3"], predicted: Float[ndarray, "A 3"]
) -> list[ElementErrors]:
    """Force errors by element, in the order of the periodic table. Forces in eV/Å."""
    rows = []
    angles = force_angles(reference, predicted)
    for number in np.unique(numbers):
        mask = numbers == number
        finite = angles[mask][np.isfinite(angles[mask])]
        rows.append(
            ElementErrors(
                symbol=symbol(int(number)),
                atoms=int(mask.sum()),
                errors=errors(reference[mask], predicted[mask]),
                scale=float(np.sqrt((reference[mask] ** 2).mean())),
                angle=float(np.median(finite)) if finite.size else float("nan"),
            )
        )
    return rows


def symbol(number: int) -> str:
    """Chemical symbol of an atomic number, `Z=200` for one outside the periodic table."""
    return str(chemical_symbols[number]) if 0 <= number < len(chemical_symbols) else f"Z={number}"


def drift_estimate(time_fs: Float[ndarray, " T"], total_eV: Float[ndarray, " T"], num_atoms: int) -> Estimate | None:
    """Drift of the total energy (meV per atom per ns) with its 95 % interval; None with fewer than three times."""
    finite = np.isfinite(time_fs) & np.isfinite(total_eV)
    time, energy = time_fs[finite], total_eV[finite]
    if time.size < 3 or np.ptp(time) == 0 or num_atoms < 1:
        return None
    return energy_drift(time, energy, num_atoms)


def per_atom(energy: Float[ndarray, " S"], ptr: Int[ndarray, " P"]) -> Float[ndarray, " S"]:
    """Energy of each structure divided by its number of atoms."""
    result: Float[ndarray, " S"] = energy / np.diff(ptr)
    return result
