"""Stability of generated molecules against the number of evaluations, and against training time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from geomol.checkpoint import load_denoiser, read_manifest
from geomol.diffusion import Denoiser
from geomol.errors import DataError
from geomol.generate.driver import sample
from geomol.generate.protocols import edm_protocol
from geomol.generate.request import make_requests
from geomol.generate.results import to_molecules
from geomol.generate.sampling import SampleSettings
from geomol.generate.score import score
from geomol.report.style import label_axes, new_figure


@dataclass(frozen=True)
class CurvePoint:
    """Shares by the protocol "edm" of molecules from one model, sampler and number of steps."""

    model: str
    sampler: str
    steps: int
    evaluations: int
    churn: float
    training_minutes: float | None
    molecules: int
    atom_stability: float
    molecule_stability: float
    molecule_stability_standard_error: float
    valid: float
    valid_unique: float
    connected: float


def sampler_curve(
    denoiser: Denoiser,
    name: str,
    settings: Sequence[SampleSettings],
    *,
    num: int,
    seed: int = 0,
    on_point: Callable[[CurvePoint], None] | None = None,
) -> list[CurvePoint]:
    """The same requests by several samplers and numbers of steps."""
    points = []
    for chosen in settings:
        points.append(_point(denoiser, name, chosen, num, seed, None))
        if on_point is not None:
            on_point(points[-1])
    return points


def training_curve(
    run_dir: Path,
    settings: SampleSettings,
    *,
    num: int,
    every: int = 1,
    seed: int = 0,
    on_point: Callable[[CurvePoint], None] | None = None,
) -> list[CurvePoint]:
    """The same requests from the snapshots of a run (`run.snapshots = true`); each still had a learning rate to lose.

    Raises:
        DataError: a run without snapshots.
    """
    files = sorted((run_dir / "snapshots").glob("step-*.safetensors"))
    if not files:
        raise DataError("no snapshots in this run", where=str(run_dir), remedy="train with run.snapshots = true")
    with (run_dir / "timing.csv").open(encoding="utf-8", newline="") as file:
        minutes = {int(row["step"]): float(row["seconds"]) / 60 for row in csv.DictReader(file)}
    kept = [*files[:-1:every], files[-1]]
    points = []
    for path in kept:
        step = int(read_manifest(path)["provenance"]["step"])
        points.append(_point(load_denoiser(path), path.stem, settings, num, seed, minutes.get(step)))
        if on_point is not None:
            on_point(points[-1])
    return points


def _point(
    denoiser: Denoiser, name: str, settings: SampleSettings, num: int, seed: int, minutes: float | None
) -> CurvePoint:
    made = sample(denoiser, make_requests(num, seed=seed, sizes=denoiser.sizes), replace(settings))
    shares = score(to_molecules(made), edm_protocol).shares
    return CurvePoint(
        model=name,
        sampler=settings.sampler,
        steps=settings.steps,
        evaluations=settings.evaluations,
        churn=settings.churn,
        training_minutes=minutes,
        molecules=num,
        atom_stability=shares["atom_stability"].value,
        molecule_stability=shares["molecule_stability"].value,
        molecule_stability_standard_error=shares["molecule_stability"].error,
        valid=shares["valid"].value,
        valid_unique=shares["valid_unique"].value,
        connected=shares["connected"].value,
    )


def curves_json(points: Sequence[CurvePoint]) -> str:
    """All points, as JSON."""
    return json.dumps([asdict(point) for point in points], indent=1) + "\n"


def curve_figure(points: Sequence[CurvePoint]) -> Figure:
    """Molecule stability with one standard error, by training time where there is one, else by evaluations."""
    figure, axes = new_figure(width=6.4, height=4.2)
    by_time = all(point.training_minutes is not None for point in points)
    groups: dict[str, list[CurvePoint]] = {}
    for point in points:
        churn = f", churn {point.churn:g}" if point.churn else ""
        groups.setdefault("" if by_time else f"{point.sampler}{churn}", []).append(point)
    for name, members in groups.items():
        x = [float(p.training_minutes or 0) if by_time else p.evaluations for p in members]
        y = [100 * p.molecule_stability for p in members]
        error = [100 * p.molecule_stability_standard_error for p in members]
        axes.errorbar(x, y, yerr=error, marker="o", markersize=4, linewidth=1.2, capsize=2, label=name or None)
    if not by_time:
        axes.set_xscale("log")
        axes.legend(frameon=False)
    label_axes(axes, "training, minutes" if by_time else "evaluations of the model", "stable molecules, %")
    return figure
