"""`geomol audit MODEL DATA`: is a model as symmetric as it claims to be?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.markup import escape
from rich.table import Table

from geomol.checkpoint import load_model
from geomol.checks.audit import audit_forecaster, audit_potential
from geomol.cli.arguments import (
    DataArgument,
    ModelArgument,
    SkipBadOption,
    ThreadsOption,
    UnitsOption,
    cpu_threads,
)
from geomol.cli.output import JsonOption, console_for, named_figure, write_json
from geomol.cli.progress import progress_bar
from geomol.data import Structures, load_nbody, load_structures
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError
from geomol.forecast import Forecaster
from geomol.labels import LabelModel
from geomol.properties import PropertyModel
from geomol.report.audit_page import write_audit
from geomol.symmetry.audit import Audit, Effort, Row
from geomol.train.forecast_task import NBodyPart

_STYLES = {"pass": "green", "fail": "bold red"}


def audit_command(
    model: ModelArgument,
    data: DataArgument,
    split: Annotated[
        str | None, typer.Option("--split", help="A part of the data, such as test or test_1; all of it by default.")
    ] = None,
    num: Annotated[int, typer.Option("--num", min=1, help="Structures to audit on, spread evenly over the data.")] = 6,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the whole audit as one page with pictures.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option("--dtype", help="float64 tells a broken symmetry from rounding; float32 shows the model as used."),
    ] = "float64",
    num_elements: Annotated[int, typer.Option("--motions", min=3, help="Random motions of each kind.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Of all random motions.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 1 if the claim does not hold.")] = False,
    threads: ThreadsOption = None,
    units: UnitsOption = None,
    skip_bad: SkipBadOption = False,
    json_file: JsonOption = None,
) -> None:
    """Measure a model under rotations, reflections, translations and renumberings, and hold it to its claim."""
    loaded = load_model(model, dtype=dtype)
    if isinstance(loaded, Denoiser | PropertyModel | LabelModel):
        raise ConfigError(
            "the audit looks at potentials and forecasts",
            where=model,
            got=type(loaded).__name__,
            remedy="`geomol bench symmetry` measures the symmetry error of others",
        )
    effort = Effort(num_elements=num_elements, num_axes=122 if html is not None else 0, seed=seed)
    with cpu_threads(threads), progress_bar("audit") as bar:
        if isinstance(loaded, Forecaster):
            systems = load_nbody(data) if split is None else load_nbody(data).split(split)
            part = NBodyPart.from_nbody(systems.rows(spread(len(systems), num)), device="cpu", dtype=loaded.dtype)
            graph, later = part.batch(torch.arange(len(part)))
            found = audit_forecaster(loaded, graph, effort=effort, later=later, on_progress=bar.update)
        else:
            structures = load_structures(data, units=units, skip_bad=skip_bad)
            structures = structures if split is None else structures.split(split)
            chosen = structures.subset(spread(len(structures), num))
            atoms = [chosen.to_atoms(i) for i in range(len(chosen))]
            found = audit_potential(loaded, atoms, effort=effort, labels=labels_of(chosen), on_progress=bar.update)
    console = console_for(json_file)
    console.print(checks_table(found))
    style = "bold green" if found.passed else "bold red"
    console.print(f"[{style}]{'passed' if found.passed else 'failed'}[/]  {escape(found.verdict)}", soft_wrap=True)
    if html is not None:
        name = Path(data).stem if Path(data).is_file() else data
        name = name if split is None else f"{name}, {split}"
        console.print(f"page: {write_audit(found, html, model=Path(model).name, data=name)}", soft_wrap=True)
    write_json({"model": model, "data": data, "split": split, **found.figures()}, json_file)
    if strict and not found.passed:
        raise typer.Exit(1)


def spread(length: int, num: int) -> np.ndarray:
    """At most `num` rows of so many, evenly spaced from the first to the last."""
    rows: np.ndarray = np.unique(np.linspace(0, length - 1, min(num, length)).round().astype(int))
    return rows


def labels_of(structures: Structures) -> dict[str, np.ndarray]:
    """Energies and forces, where every structure has them."""
    values = {"energy": structures.energy, "forces": structures.forces}
    return {
        name: value for name, value in values.items() if value is not None and bool(structures.labelled(name).all())
    }


def checks_table(found: Audit) -> Table:
    """One line per check, with the largest error of every output; the bars are in the page and in the JSON."""
    outputs = list(found.kinds)
    table = Table(box=None, pad_edge=False)
    table.add_column("check")
    for name in outputs:
        unit = _unit(found.kinds[name].unit)
        table.add_column(f"{name} ({unit})" if unit else name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for check in dict.fromkeys(row.check for row in found.rows):
        rows = {row.output: row for row in found.rows if row.check == check}
        status = _worst_status(list(rows.values()))
        cells = [_value(rows.get(name), found.kinds[name].unit) for name in outputs]
        table.add_row(escape(check), *cells, f"[{_STYLES.get(status, 'dim')}]{status}[/]")
    return table


def _worst_status(rows: list[Row]) -> str:
    found = {row.status for row in rows}
    return next((status for status in ("fail", "pass") if status in found), rows[0].status)


def _unit(unit: str) -> str:
    return named_figure(f"x_{unit}", 2.0)[2] if unit else ""


def _value(row: Row | None, unit: str) -> str:
    """The error, with its unit where that is not the one of the column."""
    if row is None:
        return ""
    return f"{row.value:.1e}" if row.unit == unit else f"{row.value:.1e} {_unit(row.unit)}".rstrip()
