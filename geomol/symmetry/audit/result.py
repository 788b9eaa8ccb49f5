"""What an audit finds: rows that pass or fail, a verdict in words, and all that the pictures are drawn from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from geomol.models import Symmetry
from geomol.symmetry.actions import Kind
from geomol.symmetry.audit.expectation import ExpectedError
from geomol.symmetry.audit.finite import FiniteError
from geomol.symmetry.audit.jumps import Scan
from geomol.symmetry.audit.orbits import Orbits

PASS, FAIL, UNCLAIMED, SKIPPED = "pass", "fail", "not claimed", "skipped"


@dataclass(frozen=True)
class Row:
    """One measurement held against one bar.

    Attributes:
        check: what was done, such as "rotations" or "Lie derivative, rotations".
        claim: what of the claimed symmetry it tests.
        output: of the model.
        value: largest error, in `unit`.
        unit: as in `Kind`; "" for a ratio.
        relative: E′, or the value relative to the scale that the check names; None where there is none.
        bar: what the value must not exceed; None where nothing is claimed.
        status: "pass", "fail", "not claimed" or "skipped".
        detail: the worst case, or why the check was skipped.
    """

    check: str
    claim: str
    output: str
    value: float
    unit: str
    relative: float | None
    bar: float | None
    status: str
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Share:
    """How much of the Lie derivative of an output enters at each layer: root mean square, per Å or radian."""

    output: str
    generators: str
    layers: dict[str, float]
    total: float


@dataclass(frozen=True, eq=False)
class Pictures:
    """Tables behind the figures.

    Attributes:
        errors: finite errors with their (S, M) tables, in the order of the families.
        axes: (A, 3) directions of the sphere map.
        sphere: orbits over a quarter turn about each axis.
        axis: the axis of the circle: that with the largest error on the sphere.
        circle: orbits over turns about it.
        orbits: orbits over random rotations, with labels where there are any.
        scans: searched paths, of all outputs.
    """

    errors: list[FiniteError] = field(default_factory=list)
    axes: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    sphere: dict[str, Orbits] = field(default_factory=dict)
    axis: Tensor = field(default_factory=lambda: torch.zeros(3))
    circle: dict[str, Orbits] = field(default_factory=dict)
    orbits: dict[str, Orbits] = field(default_factory=dict)
    scans: list[Scan] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Audit:
    """The symmetry of a model, measured and held against what it claims.

    Attributes:
        claim: the claimed symmetry.
        rows: every check.
        verdict: one or two sentences that name what holds and what is broken.
        passed: no row failed.
        measured_group: the largest group that held to rounding.
        kinds: how the outputs transform, and their units.
        lie_rms: of each output along each generator, in its unit per Å or radian.
        lee: the Lie-derivative error of each output.
        method: how derivatives were taken.
        shares: of the layers.
        expectation: for models that are symmetric on average.
        settings: number of structures and elements, seed, precision.
        pictures: tables behind the figures.
    """

    claim: Symmetry
    rows: list[Row]
    verdict: str
    passed: bool
    measured_group: str
    kinds: dict[str, Kind]
    lie_rms: dict[str, dict[str, float]]
    lee: dict[str, float]
    method: str
    shares: list[Share]
    expectation: list[ExpectedError]
    settings: dict[str, int | str]
    pictures: Pictures

    def figures(self) -> dict[str, Any]:
        """Everything as plain values, with units in the names of the keys, for JSON."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "claim": asdict(self.claim),
            "measured_group": self.measured_group,
            "settings": self.settings,
            "checks": [row_figures(row) for row in self.rows],
            "lie_derivative_method": self.method,
            "lie_derivatives": {name: self._rates(name, rates) for name, rates in self.lie_rms.items()},
            "lee": {keyed(name, "squared", self.kinds[name].unit): value for name, value in self.lee.items()},
            "layer_shares": [
                {"output": s.output, "generators": s.generators, "total": s.total, "layers": s.layers}
                for s in self.shares
            ],
            "orbits": {name: self._orbits(name, found) for name, found in self.pictures.orbits.items()},
            "expectation": [asdict(entry) for entry in self.expectation],
            "jumps": [
                {
                    "path": s.path,
                    "output": s.output,
                    keyed("jump", "", self.kinds[s.output].unit): s.jump,
                    "at": s.place,
                }
                for s in self.pictures.scans
                if s.jump > 0
            ],
        }

    def _rates(self, name: str, rates: dict[str, float]) -> dict[str, float]:
        unit = self.kinds[name].unit
        per = {"translation": "per_A", "rotation": "per_rad", "scale": "per_efold"}
        return {keyed(key.replace(" ", "_"), "", unit, per[key.split()[0]]): value for key, value in rates.items()}

    def _orbits(self, name: str, found: Orbits) -> dict[str, Any]:
        unit = self.kinds[name].unit
        summary = found.summary()
        named = {keyed(key, "", unit): value for key, value in summary.items() if key not in _UNITLESS}
        rest = {key: value for key, value in summary.items() if key in _UNITLESS}
        return {"reference": found.reference, **named, **rest}


_UNITLESS = ("worst_pose", "range_over_mean")


def keyed(*parts: str) -> str:
    """The parts that are not empty, joined by underscores."""
    return "_".join(part for part in parts if part)


def row_figures(row: Row) -> dict[str, Any]:
    """A row with its unit in the keys."""
    return {
        "check": row.check,
        "claim": row.claim,
        "output": row.output,
        keyed("largest_error", row.unit): row.value,
        keyed("bar", row.unit): row.bar,
        "relative_error": row.relative,
        "status": row.status,
        "detail": row.detail,
    }
