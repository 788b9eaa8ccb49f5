"""`geomol audit MODEL DATA`: is a model as symmetric as it claims to be?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from geomol.checkpoint import load_model
from geomol.cli.arguments import (
    DataArgument,
    ModelArgument,
    SkipBadOption,
    ThreadsOption,
    UnitsOption,
    cpu_threads,
)
from geomol.cli.audit_models import Asked, audit_model
from geomol.cli.output import JsonOption, console_for, named_figure, write_json
from geomol.cli.progress import progress_bar
from geomol.report.audit_page import write_audit
from geomol.symmetry.audit import Audit, Effort, Row

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
    num_paths: Annotated[
        int, typer.Option("--paths", min=1, help="Structures whose turns and stretches are searched for jumps.")
    ] = 4,
    points: Annotated[
        int | None, typer.Option("--points", min=4, help="Of each cloud; as many as the model had in training.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all random motions.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 1 if the claim does not hold.")] = False,
    threads: ThreadsOption = None,
    units: UnitsOption = None,
    skip_bad: SkipBadOption = False,
    json_file: JsonOption = None,
) -> None:
    """Measure a model under rotations, reflections, translations and renumberings, and hold it to its claim.

    Potentials are judged by energies and forces, forecasters by displacements, property models by their targets, label
    models by their probabilities, denoisers by what they expect behind several levels of noise.
    """
    loaded = load_model(model, dtype=dtype)
    effort = Effort(num_elements=num_elements, num_axes=122 if html is not None else 0, num_paths=num_paths, seed=seed)
    asked = Asked(data, split, num, points=points, units=units, skip_bad=skip_bad)
    with cpu_threads(threads), progress_bar("audit") as bar:
        found = audit_model(loaded, asked, effort, bar.update)
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


def checks_table(found: Audit) -> Table:
    """One line per check, with the largest error of every output; the bars are in the page and in the JSON."""
    outputs = list(found.kinds)
    table = Table(box=None, pad_edge=False)
    table.add_column("check")
    for name in outputs:
        unit = _unit(found.kinds[name].unit)
        few = len(outputs) <= 2  # long heads of many columns are broken
        table.add_column(f"{name} ({unit})" if unit else name, justify="right", no_wrap=few, min_width=7)
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
    return (named_figure(f"x_{unit}", 2.0)[2] or unit) if unit else ""


def _value(row: Row | None, unit: str) -> str:
    """The error, with its unit where that is not the one of the column."""
    if row is None:
        return ""
    return f"{row.value:.1e}" if row.unit == unit else f"{row.value:.1e} {_unit(row.unit)}".rstrip()
