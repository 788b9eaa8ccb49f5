"""`geomol report RUN`: one self-contained page with everything a run measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomol.report import write_report


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/demo.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page to write; RUN/report.html by default.")
    ] = None,
) -> None:
    """Write an HTML page of curves, errors, simulations and trajectories that opens without a network."""
    typer.echo(write_report(run, out))
