"""`geomol bench MODEL STRUCTURE`: where the time of one energy + force call goes, beside a plain eager version."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from geomol.bench import measure_stages
from geomol.checkpoint import load_potential
from geomol.cli.arguments import (
    DtypeOption,
    IndexOption,
    ModelArgument,
    StructureArgument,
    ThreadsOption,
    cpu_threads,
    structure_at,
)
from geomol.cli.output import JsonOption, console_for, write_json


def bench_command(
    model: ModelArgument,
    structure: StructureArgument,
    index: IndexOption = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Calls of each kind, in turn.")] = 50,
    threads: ThreadsOption = None,
    dtype: DtypeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Time the stages of an energy + force call through ASE, in turn with a plain eager version of the same model."""
    potential = load_potential(model, dtype=dtype)
    atoms = structure_at(structure, index)
    with cpu_threads(threads):
        report = measure_stages(potential, atoms, rounds=rounds)
    console = console_for(json_file)
    size = f"{report.num_atoms} atoms, {report.num_edges} edges"
    table = Table(title=f"{model}: {size}, {report.dtype}, {report.threads} threads")
    for heading in ("stage", "median ms", "quartiles ms"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for t in report.stages:
        table.add_row(t.stage, f"{1e3 * t.median_s:.2f}", f"{1e3 * t.lower_s:.2f} – {1e3 * t.upper_s:.2f}")
    console.print(table)
    console.print(
        f"plain / ours: {report.ratio:.2f} (median over {rounds} rounds; forces agree to "
        f"{report.force_difference_eV_per_A:.1e} eV/Å)"
    )
    write_json(report.figures(), json_file)
