"""`geomol publish RUN -o models/NAME`: the weights of a run with their measured errors and a card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomol.cli.output import JsonOption, console_for, print_figures, write_json
from geomol.report import publish


def publish_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of `geomol train`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the published model, such as models/mine.")],
    config: Annotated[
        str, typer.Option("--config", help="The configuration file it was trained with, for the card.")
    ] = "CONFIG.toml",
    json_file: JsonOption = None,
) -> None:
    """Measure a trained model on its test part and write it with a card: data, errors, symmetry, drift, cost."""
    evaluation = publish(run, out, command=f"geomol train {config}")
    console = console_for(json_file)
    print_figures(console, evaluation.metrics, title="test")
    console.print(f"model and card: {out}", soft_wrap=True)
    write_json(evaluation.metrics, json_file)
