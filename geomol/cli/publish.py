"""`geomol publish RUN -o models/NAME`: the weights of a run with their measured errors and a card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomol.checkpoint import read_manifest
from geomol.cli.output import JsonOption, console_for, print_figures, write_json
from geomol.generate.sampling import SampleSettings
from geomol.report import publish, publish_generator, publish_measured


def publish_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of `geomol train`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the published model, such as models/mine.")],
    config: Annotated[
        str, typer.Option("--config", help="The configuration file it was trained with, for the card.")
    ] = "CONFIG.toml",
    molecules: Annotated[int, typer.Option("--molecules", min=1, help="Sampled from a generator.")] = 2000,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Noise levels in sampling, by Heun's method.")] = 50,
    churn: Annotated[float, typer.Option("--churn", min=0, help="Noise put back on the way, in sampling.")] = 20.0,
    json_file: JsonOption = None,
) -> None:
    """Measure a trained model on its test part and write it with a card: data, errors, symmetry, drift, cost; of a
    generator the metrics of its molecules beside those of the data.
    """
    kind = read_manifest(run)["class"] if (run / "model.safetensors").is_file() else "Potential"
    if kind == "Denoiser":
        settings = SampleSettings(steps=steps, churn=churn)
        metrics = publish_generator(run, out, command=f"geomol train {config}", num=molecules, settings=settings)
        console = console_for(json_file)
        print_figures(console, metrics.scores["edm"].figures(), title=f"{molecules} molecules, protocol edm")
        console.print(f"model and card: {out}", soft_wrap=True)
        write_json(metrics.figures(), json_file)
        return
    command = f"geomol train {config}"
    if kind == "Potential":
        figures = publish(run, out, command=command).metrics
    else:
        figures = publish_measured(run, out, command=command)
    console = console_for(json_file)
    print_figures(console, figures, title="test")
    console.print(f"model and card: {out}", soft_wrap=True)
    write_json(figures, json_file)
