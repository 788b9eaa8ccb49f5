"""How small an error must be for a claim to hold, and what a claim covers.

Errors are held against bar × (1 + scale), where the scale is the length of the output: relative for large values,
absolute in the unit of the output (eV, eV/Å) for small ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from geomol.models import Symmetry
from geomol.symmetry.actions import Kind

CLAIMS = ("permutations", "translations", "rotations", "reflections")
"""What a group can be said to contain, in the order in which it is reported."""

_CONTAINS = {
    "1": (),
    "T(3)": ("translations",),
    "SO(3)": ("rotations",),
    "O(3)": ("rotations", "reflections"),
    "SE(3)": ("translations", "rotations"),
    "E(3)": ("translations", "rotations", "reflections"),
}
FAR = 10.0  # Å; beyond it rounding grows with the distance


@dataclass(frozen=True)
class Bars:
    """Bars of one precision: for invariant outputs (energies) and for all others (forces).

    Attributes:
        motion, far, permutation: of finite errors; `far` for translations beyond 10 Å.
        lie: of Lie derivatives (per Å or radian), absolute forces and torques included.
        jump: of discontinuities.
    """

    motion: tuple[float, float]
    far: tuple[float, float]
    permutation: tuple[float, float]
    lie: float
    net_force: float
    net_torque: float
    jump: float


FLOAT64 = Bars((1e-11, 1e-10), (1e-9, 1e-9), (1e-12, 1e-10), 1e-9, 1e-10, 1e-9, 1e-9)
FLOAT32 = Bars((1e-5, 1e-4), (1e-5, 1e-4), (1e-6, 1e-4), 1e-3, 1e-4, 1e-4, 1e-3)
INEXACT = (1e-3, 1e-2)
"""For rotations and reflections of a model that says itself that it has them approximately, as on a grid of
orientations: energies, and others, which are derivatives and lose a digit."""

IDENTITY = 1e-6  # Lie derivative of the energy against net force and torque, relative
DEVIATIONS = 4.0  # standard errors within which an average over random poses must agree


def claims_of(symmetry: Symmetry) -> tuple[str, ...]:
    """What the claimed group covers; permutations always."""
    return ("permutations", *_CONTAINS.get(symmetry.group, ()))


def bars_of(precision: torch.dtype) -> Bars:
    """Those of float64, or of anything shorter."""
    return FLOAT64 if precision == torch.float64 else FLOAT32


def finite_bar(claim: str, family: str, kind: Kind, symmetry: Symmetry, precision: torch.dtype) -> float:
    """For an error relative to 1 + scale."""
    which = 0 if kind.form in ("scalar", "pseudoscalar") else 1
    bars = bars_of(precision)
    if claim in ("rotations", "reflections") and not symmetry.exact:
        return max(INEXACT[which], bars.motion[which])
    if claim == "permutations":
        return bars.permutation[which]
    return (bars.far if is_far(family) else bars.motion)[which]


def is_far(family: str) -> bool:
    """Whether a family of translations goes so far that rounding grows with the distance."""
    distance = family.removeprefix("translations by ").removesuffix(" Å")
    return distance != family and float(distance) > FAR


def lie_bar(claim: str, kind: Kind, symmetry: Symmetry, precision: torch.dtype) -> float:
    """For a Lie derivative relative to 1 + scale."""
    which = 0 if kind.form in ("scalar", "pseudoscalar") else 1
    if claim == "rotations" and not symmetry.exact:
        return max(10 * INEXACT[which], bars_of(precision).lie)  # errors on a grid change over a fraction of a radian
    return bars_of(precision).lie


def group_of(holds: set[str]) -> str:
    """The largest group of the table whose parts all hold."""
    found = "1"
    for name, parts in _CONTAINS.items():
        if set(parts) <= holds and len(parts) >= len(_CONTAINS[found]):
            found = name
    return found
