"""From measurements to rows: each error beside its bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from geomol.graph import Graph
from geomol.models import Symmetry
from geomol.symmetry.actions import Kind
from geomol.symmetry.audit import bars
from geomol.symmetry.audit.expectation import ExpectedError
from geomol.symmetry.audit.finite import Family, FiniteError
from geomol.symmetry.audit.jumps import Scan
from geomol.symmetry.audit.lie import LieDerivative
from geomol.symmetry.audit.net_force import Momentum
from geomol.symmetry.audit.result import FAIL, PASS, UNCLAIMED, Row


def judged(row: Row, *, claimed: bool) -> Row:
    """The row with its status; a value that is no number fails."""
    if not claimed or row.bar is None:
        status, bar = UNCLAIMED, None
    else:
        status, bar = (PASS if row.value <= row.bar else FAIL), row.bar
    return Row(row.check, row.claim, row.output, row.value, row.unit, row.relative, bar, status, row.detail)


def finite_row(
    error: FiniteError, family: Family, kind: Kind, claim: Symmetry, precision: torch.dtype, *, special: bool
) -> Row:
    """Largest ‖f(g·x) − ρ(g) f(x)‖ of a node or structure.

    Random poses differ between the copies of a batch: they are held to the claim by their average (`expected_row`), not
    here. Nor are chosen subgroups, listed because they may hold far better than the whole, and, where the claim is
    approximate, symmetric structures, which matter to frames and are not what the model was made for.
    """
    bar = bars.finite_bar(family.claim, family.name, kind, claim, precision) * (1 + error.scale_there)
    row = Row(
        family.name,
        family.claim,
        error.output,
        error.largest,
        kind.unit,
        error.relative,
        bar,
        "",
        f"worst: {error.worst}" if error.worst else "",
    )
    claimed = family.claim in bars.claims_of(claim) and not claim.stochastic and family.elementary
    claimed = claimed and (claim.exact or not special)
    return judged(row, claimed=claimed)


def lie_rows(
    found: Sequence[LieDerivative],
    kinds: Mapping[str, Kind],
    scales: Mapping[str, float],
    claim: Symmetry,
    precision: torch.dtype,
) -> list[Row]:
    """Largest ‖L_A f‖ of a structure, for the translations and for the rotations."""
    rows = []
    for what, per in (("translation", "Å"), ("rotation", "rad")):
        for name, kind in kinds.items():
            entries = [d for d in found if d.generator.kind == what and d.output == name]
            worst = max(entries, key=lambda d: -1.0 if math.isnan(d.worst) else d.worst)
            value = math.nan if any(math.isnan(d.worst) for d in entries) else worst.worst
            scale = scales[name]
            bar = bars.lie_bar(f"{what}s", kind, claim, precision) * (1 + scale)
            detail = f"per {per}; worst: {worst.generator.name}"
            relative = value / scale if scale > 0 else None
            row = Row(f"Lie derivative, {what}s", f"{what}s", name, value, kind.unit, relative, bar, "", detail)
            on_average = claim.stochastic and what == "rotation"
            rows.append(judged(row, claimed=f"{what}s" in bars.claims_of(claim) and not on_average))
    return rows


def momentum_rows(found: Momentum, graph: Graph, claim: Symmetry, precision: torch.dtype) -> list[Row]:
    """Net force and net torque of the largest structure; the bars are those of exact models."""
    rows = []
    bar = bars.bars_of(precision)
    force, torque = float(found.force.norm(dim=1).max()), float(found.torque.norm(dim=1).max())
    claims = bars.claims_of(claim)
    share = float((found.force.norm(dim=1) / found.force_scale.clamp(min=1e-300)).max())
    row = Row("net force", "momentum", "forces", force, "eV_per_A", share, bar.net_force, "", "relative to Σ|F|")
    rows.append(judged(row, claimed="translations" in claims))
    if not graph.is_periodic:
        share = float((found.torque.norm(dim=1) / found.torque_scale.clamp(min=1e-300)).max())
        exact = "rotations" in claims and claim.exact and not claim.stochastic
        detail = "about the centroid; relative to Σ|x||F|"
        row = Row("net torque", "momentum", "forces", torque, "eV", share, bar.net_torque, "", detail)
        rows.append(judged(row, claimed=exact))
    return rows


def identity_rows(errors: tuple[float, float], graph: Graph) -> list[Row]:
    """Lie derivative of the energy against net force and net torque: whether forces are the gradient of the energy."""
    force, torque = errors
    names = [("L_translation E = −net force", force, "relative to Σ|F|")]
    if not graph.is_periodic:
        names.append(("L_rotation E = −net torque", torque, "relative to Σ|x||F|"))
    made = [Row(name, "gradient", "forces", value, "", value, bars.IDENTITY, "", note) for name, value, note in names]
    return [judged(row, claimed=True) for row in made]


def scan_rows(
    scans: Sequence[Scan],
    kinds: Mapping[str, Kind],
    scales: Mapping[str, float],
    claim: Symmetry,
    precision: torch.dtype,
) -> list[Row]:
    """Largest jump of every output along the paths of each kind."""
    rows = []
    for path in dict.fromkeys(scan.path for scan in scans):
        for name, kind in kinds.items():
            chosen = [scan for scan in scans if scan.path == path and scan.output == name]
            worst = max(chosen, key=lambda scan: scan.jump)
            broken = sum(scan.jump > 0 for scan in chosen)
            detail = f"{broken} of {len(chosen)} paths jump" if broken else f"{len(chosen)} paths, no jump"
            scale = scales[name]
            bar = bars.bars_of(precision).jump * (1 + scale)
            relative = worst.jump / scale if scale > 0 else None
            check = f"jumps along {path}"
            row = Row(check, "continuity", name, worst.jump, kind.unit, relative, bar, "", detail)
            rows.append(judged(row, claimed=claim.continuous))
    for name, kind in kinds.items():
        jump = max((scan.cutoff_jump for scan in scans if scan.output == name), default=0.0)
        if jump > 0:
            bar = bars.bars_of(precision).jump * (1 + scales[name])
            detail = "where a pair enters or leaves the cutoff"
            row = Row("jumps at the cutoff", "smoothness", name, jump, kind.unit, None, bar, "", detail)
            rows.append(judged(row, claimed=claim.smooth))
    return rows


def expected_row(found: ExpectedError, claim: Symmetry) -> Row:
    """Whether the mean over random poses is symmetric, within its statistical error."""
    detail = f"standard errors, of {found.draws} draws; bias {found.bias:.2g}, noise {found.noise:.2g} of the output"
    parts = bars.claims_of(claim)
    check = f"{', '.join(parts)} on average"
    row = Row(check, parts[-1], found.output, found.deviations, "", found.bias, bars.DEVIATIONS, "", detail)
    return judged(row, claimed=True)
