"""Labels of one structure: which key holds them, and the many ways stress is written.

Since ASE 3.23 the extxyz reader moves `energy`, `forces` and `stress` from `atoms.info` and `atoms.arrays` into a
SinglePointCalculator, so code that looks in `atoms.info["energy"]` loses its labels without a word. All places are
looked at here, and labels under other names (`REF_energy`) are selectable.
"""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from jaxtyping import Float

from geomol.errors import InputError

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # ASE order xx yy zz yz xz xy
ASYMMETRY = 1e-4  # relative; more than rounding in a text file

Labels = dict[str, np.ndarray | None]


def voigt_to_matrix(voigt: Float[np.ndarray, " 6"]) -> Float[np.ndarray, "3 3"]:
    """Symmetric matrix of a Voigt vector in ASE order."""
    matrix = np.zeros((3, 3))
    for value, (i, j) in zip(voigt, VOIGT, strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix


def matrix_to_voigt(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 6"]:
    """Voigt vector in ASE order of a symmetric matrix."""
    return np.array([matrix[i, j] for i, j in VOIGT])


def stress_matrix(
    values: np.ndarray, where: str, *, key: str, cell: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3 3"]:
    """Stress (3, 3), positive under tension, from 3x3, 9 or Voigt 6 numbers, or from a virial.

    A key that contains "virial" is read as virial = −stress · volume.

    Raises:
        InputError: another number of values, a matrix that is not symmetric, or a virial without a volume.
    """
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    if flat.size not in (6, 9):
        raise InputError(f"{key} has the wrong shape", where=where, expected="6 or 9 numbers", got=str(flat.size))
    matrix = voigt_to_matrix(flat) if flat.size == 6 else flat.reshape(3, 3)
    if np.abs(matrix - matrix.T).max() > ASYMMETRY * np.abs(matrix).max() + 1e-12:
        raise InputError(f"{key} is not symmetric", where=where, got=np.array2string(flat, precision=4))
    matrix = (matrix + matrix.T) / 2
    if "virial" not in key.lower():
        return matrix
    volume = abs(float(np.linalg.det(cell)))
    if volume < 1e-6:
        raise InputError("a virial needs a cell with a volume to become a stress", where=where, got=f"{volume:g} Å³")
    return -matrix / volume


def labels_of_atoms(
    atoms: ase.Atoms, where: str, energy_key: str | None, forces_key: str | None, stress_key: str | None
) -> Labels:
    """Energy, forces and stress of an `ase.Atoms` from stored results, `info` and `arrays`; None where absent.

    Raises:
        InputError: a label of the wrong shape, or one that is not finite.
    """
    results = dict(getattr(atoms.calc, "results", {}) or {})
    places = {**atoms.info, **atoms.arrays, **results}
    energy = places.get(energy_key or "energy")
    forces = places.get(forces_key or "forces")
    stress_name = stress_key or next((key for key in ("stress", "virial") if key in places), "stress")
    stress = places.get(stress_name)
    if energy is not None:
        energy = _number(energy, where, energy_key or "energy")
    if forces is not None:
        forces = np.asarray(forces, dtype=np.float64)
        if forces.shape != (len(atoms), 3):
            raise InputError(
                "forces have the wrong shape", where=where, expected=f"({len(atoms)}, 3)", got=str(forces.shape)
            )
    if stress is not None:
        stress = stress_matrix(np.asarray(stress), where, key=stress_name, cell=atoms.cell.array)
    labels = {"energy": energy, "forces": forces, "stress": stress}
    for key, values in labels.items():
        if values is not None and not np.isfinite(values).all():
            raise InputError(f"{key} is not finite", where=where, remedy="skip_bad drops such frames")
    return labels


def join_labels(labels: Sequence[Labels], counts: Sequence[int]) -> Labels:
    """Flat label arrays of many structures: NaN where one has none, None where none has one.

    Args:
        counts: atoms of each structure.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {
        "energy": [() for _ in counts],
        "forces": [(count, 3) for count in counts],
        "stress": [(3, 3) for _ in counts],
    }
    joined: Labels = {}
    for quantity in shapes:
        values = [label[quantity] for label in labels]
        filled = [np.full(s, np.nan) if v is None else v for v, s in zip(values, shapes[quantity], strict=True)]
        if all(value is None for value in values):
            joined[quantity] = None
        else:
            joined[quantity] = np.concatenate(filled) if quantity == "forces" else np.stack(filled)
    return joined


def _number(value: object, where: str, key: str) -> np.ndarray:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise InputError(f"{key} is not a number", where=where, expected="one real number", got=repr(value)[:60])
    return array.astype(np.float64).reshape(())
