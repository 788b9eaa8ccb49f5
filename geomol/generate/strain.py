"""What a set of relaxations says of the molecules: strain, displacement, and how many survived."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geomol.data import Structures
from geomol.errors import InputError
from geomol.generate.alignment import bonded
from geomol.generate.internal_coordinates import internal_coordinates, mean_change
from geomol.generate.relaxation import Relaxation

QUANTILES = (0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class StrainSummary:
    """Strain E(as generated) − E(relaxed) of a set by one method, and what else the relaxation shows.

    A molecule whose relaxation failed has infinite strain: it stays in the denominator of every quantile and share.
    A mean cannot hold it; means are over the converged alone and say so in their names.

    Attributes:
        method: as in `Relaxation`.
        molecules: how many there are, failures included.
        converged: how many of them converged.
        bonds_kept, edm_orders_kept: how many converged with the same bonds, or the same orders by EDM's tables.
        quantiles: (level, strain in kcal/mol) over all molecules; inf where failures reach that far.
        mean_of_converged, median_of_kept: strain of the converged, and of those that also kept their bonds, kcal/mol.
        rmsd, heavy_rmsd: medians over all molecules, failures infinite, Å.
        change: mean absolute change of bond lengths (Å), angles and torsions (degrees) in the converged molecules that
            kept their bonds.
        seconds: mean wall-clock time per molecule.
        failures: (reason, how often), the most frequent first; RDKit's "atom # 3" counts as "atom # n".
    """

    method: str
    molecules: int
    converged: int
    bonds_kept: int
    edm_orders_kept: int
    quantiles: tuple[tuple[float, float], ...]
    mean_of_converged: float
    median_of_kept: float
    rmsd: float
    heavy_rmsd: float
    change: tuple[tuple[str, float], ...]
    seconds: float
    failures: tuple[tuple[str, int], ...]

    @property
    def median(self) -> float:
        """Median strain over all molecules, kcal/mol."""
        return dict(self.quantiles)[0.5]

    def figures(self) -> dict[str, float]:
        """Numbers by name, with units; shares are of all molecules."""
        total = self.molecules or float("nan")
        name = {"MMFF94": "mmff", "GFN2-xTB": "xtb"}.get(self.method, self.method)
        found = {"molecules": float(self.molecules), "converged_share": self.converged / total}
        found["bonds_kept_share"] = self.bonds_kept / total
        found["edm_orders_kept_share"] = self.edm_orders_kept / total
        for level, value in self.quantiles:
            label = "median" if level == 0.5 else f"q{100 * level:02.0f}"
            found[f"strain_{label}_kcal_per_mol"] = value
        found["strain_mean_of_converged_kcal_per_mol"] = self.mean_of_converged
        found["strain_median_of_bonds_kept_kcal_per_mol"] = self.median_of_kept
        found["rmsd_median_A"], found["heavy_rmsd_median_A"] = self.rmsd, self.heavy_rmsd
        found |= dict(self.change)
        found["seconds_per_molecule"] = self.seconds
        return {f"{name}_{key}": float(value) for key, value in found.items()}


def summarise(relaxations: Sequence[Relaxation]) -> StrainSummary:
    """Strain and displacement of a set of molecules relaxed by one method.

    Raises:
        InputError: no relaxations, or by several methods.
    """
    methods = sorted({r.method for r in relaxations})
    if len(methods) != 1:
        raise InputError("relaxations of one method are summarised", expected="one method", got=str(methods))
    strain = np.array([_or_inf(r, r.strain_kcal_per_mol) for r in relaxations])
    done = [r for r in relaxations if r.converged]
    kept = [r for r in done if r.bonds_kept]
    reasons = Counter(re.sub(r"(?<=# )\d+", "n", r.failure) for r in relaxations if r.failure is not None)
    return StrainSummary(
        method=methods[0],
        molecules=len(relaxations),
        converged=len(done),
        bonds_kept=len(kept),
        edm_orders_kept=sum(bool(r.edm_orders_kept) for r in done),
        quantiles=tuple((level, quantile(strain, level)) for level in QUANTILES),
        mean_of_converged=float(np.mean([r.strain_kcal_per_mol for r in done])) if done else float("nan"),
        median_of_kept=float(np.median([r.strain_kcal_per_mol for r in kept])) if kept else float("nan"),
        rmsd=quantile(np.array([_or_inf(r, r.rmsd) for r in relaxations]), 0.5),
        heavy_rmsd=quantile(np.array([_or_inf(r, r.heavy_rmsd) for r in relaxations]), 0.5),
        change=tuple(geometry_change(kept).items()),
        seconds=float(np.mean([r.seconds for r in relaxations])),
        failures=tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    )


def quantile(values: np.ndarray, level: float) -> float:
    """Quantile by linear interpolation that infinite values may take part in; NaN values are left out.

    `numpy.quantile` gives NaN where it interpolates between two infinite values, or by weight 0 to one.
    """
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return float("nan")
    place = level * (len(known) - 1)
    low, high = known[int(np.floor(place))], known[int(np.ceil(place))]
    return float(low if low == high or place == np.floor(place) else low + (place - np.floor(place)) * (high - low))


def geometry_change(relaxations: Sequence[Relaxation]) -> dict[str, float]:
    """Mean absolute change of bond lengths (Å), angles and torsions (degrees), over all of them in all molecules.

    Bonds are those that `bonded` finds before the relaxation. NaN where there are none.
    """
    rows = [(r.numbers, r.before, r.after) for r in relaxations if r.after is not None]
    orders = [bonded(numbers, pos).astype(np.int8) for numbers, pos, _ in rows]
    before = _molecules([(numbers, pos) for numbers, pos, _ in rows])
    after = _molecules([(numbers, pos) for numbers, _, pos in rows])
    return mean_change(internal_coordinates(before, orders), internal_coordinates(after, orders))


def _or_inf(relaxation: Relaxation, value: float) -> float:
    return value if relaxation.converged else float("inf")


def _molecules(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Structures:
    ptr = np.concatenate([[0], np.cumsum([len(numbers) for numbers, _ in rows])]).astype(np.int64)
    return Structures(
        name="relaxed molecules",
        numbers=np.concatenate([np.zeros(0, np.int64), *(numbers for numbers, _ in rows)]),
        pos=np.concatenate([np.zeros((0, 3)), *(pos for _, pos in rows)]),
        ptr=ptr,
        cell=np.zeros((len(rows), 3, 3)),
        pbc=np.zeros((len(rows), 3), dtype=bool),
    )
