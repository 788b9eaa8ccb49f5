"""`geomol train CONFIG.toml key=value …`: train a model, or go on with a run that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomol.cli.output import JsonOption, console_for, print_figures, write_json
from geomol.cli.progress import progress_bar
from geomol.report import save_plots
from geomol.train import Progress, load_config, train


def describe(progress: Progress) -> str:
    """The figures of the moment in one line."""
    mse = progress.latest.get("valid_position_mse")
    force = progress.latest.get("valid_force_mae_eV_per_A")
    energy = progress.latest.get("valid_energy_mae_eV")
    text = f"epoch {progress.epoch}  loss {progress.loss:.3g}"
    text += "" if mse is None else f"  position mse {mse:.3g}"
    text += "" if force is None else f"  forces {1e3 * force:.1f} meV/Å"
    return text if energy is None else f"{text}  energy {1e3 * energy:.1f} meV"


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
    """Train a potential or a forecaster. Called again, it goes on where it stopped; nothing is lost by interrupting."""
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
