"""Measurements of what a potential must obey: used by the tests of every model, by model cards and by `geomol
selfcheck`.

Each function measures and returns a figure; the bars are the caller's.
"""

from geomol.checks.forces import (
    cutoff_jumps,
    energy_of,
    force_error,
    force_error_order,
    forces_of,
    jacobian_antisymmetry,
    stress_error,
)
from geomol.checks.symmetries import (
    batch_error,
    net_force_and_torque,
    permutation_error,
    rotation_errors,
    separability_error,
    supercell_error,
    translation_error,
)
from geomol.checks.systems import disordered_crystals, disordered_molecules, symmetric_molecules, with_elements

__all__ = [
    "batch_error",
    "cutoff_jumps",
    "disordered_crystals",
    "disordered_molecules",
    "energy_of",
    "force_error",
    "force_error_order",
    "forces_of",
    "jacobian_antisymmetry",
    "net_force_and_torque",
    "permutation_error",
    "rotation_errors",
    "separability_error",
    "stress_error",
    "supercell_error",
    "symmetric_molecules",
    "translation_error",
    "with_elements",
]
