"""What tables and pictures of compared runs show beside the figure that decides."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

Extra = tuple[str, str, float, str]  # heading, key, factor and format of a further figure
MOST_TARGETS = 4  # that get a column each


@dataclass(frozen=True)
class Columns:
    """What is shown of runs that are judged by one figure.

    Attributes:
        symmetry: key of the symmetry error.
        heading, unit, factor: of the score.
        extra: further figures.
    """

    symmetry: str
    heading: str
    unit: str = ""
    factor: float = 1.0
    extra: tuple[Extra, ...] = ()

    @property
    def symmetry_unit(self) -> str:
        """Unit of the symmetry error, which is never a percentage."""
        return "" if self.unit == "%" else self.unit

    @property
    def symmetry_factor(self) -> float:
        return 1.0 if self.unit == "%" else self.factor

    @property
    def title(self) -> str:
        """Heading of the score with its unit."""
        return f"{self.heading} {self.unit}".strip()


_COST: Extra = ("ms / call (ASE)", "energy_and_forces_s", 1e3, ".1f")
_BY_SCORE = {
    "position_mse": Columns("equivariance_error", "test MSE"),
    "force_mae_eV_per_A": Columns("rotation_force_error_eV_per_A", "force MAE", "meV/Å", 1e3, (_COST,)),
    "energy_per_atom_mae_eV": Columns("rotation_energy_error_eV", "energy MAE per atom", "meV", 1e3, (_COST,)),
    "mae_of_spread": Columns("rotation_error_of_spread", "MAE / spread"),
    "accuracy_z": Columns(
        "rotation_error_of_probability",
        "right, turned about z,",
        "%",
        1e2,
        (
            ("right, turned in SO(3), %", "accuracy_so3", 1e2, ".1f"),
            ("mean over classes, z, %", "class_accuracy_z", 1e2, ".1f"),
            ("mean over classes, SO(3), %", "class_accuracy_so3", 1e2, ".1f"),
        ),
    ),
    "instance_miou_z": Columns(
        "rotation_error_of_probability",
        "mIoU over clouds, turned about z,",
        "%",
        1e2,
        (
            ("mIoU over clouds, SO(3), %", "instance_miou_so3", 1e2, ".1f"),
            ("points right, z, %", "accuracy_z", 1e2, ".1f"),
            ("points right, SO(3), %", "accuracy_so3", 1e2, ".1f"),
        ),
    ),
    "molecule_stability": Columns(
        "equivariance_error",
        "stable molecules",
        "%",
        1e2,
        (
            ("stable atoms %", "atom_stability", 1e2, ".1f"),
            ("valid %", "valid", 1e2, ".1f"),
            ("V·U %", "valid_unique", 1e2, ".1f"),
            ("connected %", "connected", 1e2, ".1f"),
            ("median strain kcal/mol (kept bonds)", "strain_median_of_kept_kcal_per_mol", 1.0, ".1f"),
            ("s / 1000 samples", "per_1000_s", 1.0, ".0f"),
        ),
    ),
}


def columns_for(score: str, measured: Collection[str]) -> Columns:
    """What is shown of runs judged by `score`.

    Args:
        score: name of the figure that decides, see `score_key`.
        measured: names of the figures that there are; of properties, the error of each target is shown in its unit
            unless there are many.
    """
    shown = _BY_SCORE[score]
    if score != "mae_of_spread":
        return shown
    targets = [found for key in measured if (found := re.fullmatch(r"(.+)_mae_(.+)", key)) and key != score]
    if len(targets) > MOST_TARGETS:
        return shown
    extra = tuple((f"{t[1]} MAE, {t[2].replace('_per_', '/')}", t[0], 1.0, ".4g") for t in targets)
    return replace(shown, extra=extra)
