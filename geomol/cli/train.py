"""`geomol train CONFIG.toml key=value …`: train a model, or go on with a run that was interrupted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from geomol.cli.output import JsonOption, console_for, print_figures, write_json
from geomol.cli.progress import progress_bar
from geomol.report import save_plots
from geomol.train import Progress, load_config, train

SHOWN_FIGURES = 3


def describe(progress: Progress) -> str:
    """The figures of the moment in one line: the loss, and the first errors of the last validation."""
    shown = [text for key, value in progress.latest.items() if (text := _figure(key, value)) is not None]
    return "  ".join([f"epoch {progress.epoch}  loss {progress.loss:.3g}", *shown[:SHOWN_FIGURES]])


def _figure(key: str, value: float) -> str | None:
    """A validation figure in words: "force 12.1 meV/Å", "accuracy 91.2 %", "gap 0.2 eV"; None for other columns."""
    if not key.startswith("valid_") or "_rmse_" in key or not math.isfinite(value):
        return None
    name, _, unit = key.removeprefix("valid_").partition("_mae_")
    name = name.replace("_", " ")
    if name.endswith(("accuracy", "miou")):
        return f"{name} {100 * value:.1f} %"
    for ending, written in (("eV_per_A3", "eV/Å³"), ("eV_per_A", "eV/Å"), ("eV", "eV")):
        if unit == ending:
            small = abs(value) < 1 and ending != "eV_per_A3"
            return f"{name} {1e3 * value:.1f} m{written}" if small else f"{name} {value:.3g} {written}"
    return f"{name} {value:.3g} {unit.replace('_', ' ')}".rstrip()


def train_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Settings; see examples/configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value …]", help="Changes, such as run.seed=1 or name=second.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew over an earlier run.")] = False,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="KEY", help="Go on although this setting changed.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Train a model of any task. Called again, it goes on where it stopped; nothing is lost by interrupting."""
    settings = load_config(config, overrides or [])
    console = console_for(json_file)
    console.print(
        f"{settings.name}: {settings.model['name']} on {settings.data.source}, into {settings.run_dir}", soft_wrap=True
    )
    with progress_bar("training") as bar:

        def show(progress: Progress) -> None:
            if bar.due() or progress.fraction >= 1:
                left = progress.elapsed_s * (1 / progress.fraction - 1) if progress.fraction > 0 else None
                bar.update(progress.fraction, describe(progress), eta_s=left)

        result = train(settings, overwrite=overwrite, allow=allow or [], on_progress=show)
    figures = {"steps": result.steps, "training_s": result.elapsed_s, **result.best, "finished": result.finished}
    print_figures(console, figures, title="best on the validation part")
    for path in save_plots(result.run_dir):
        console.print(f"plot: {path}", soft_wrap=True)
    if not result.finished:
        console.print("stopped early; the same command goes on from here")
    write_json(figures, json_file)
