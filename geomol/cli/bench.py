"""`geomol bench symmetry`: what each way of having a symmetry costs and gains; and the other benchmarks by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from geomol.cli.bench_cost import cost_command
from geomol.cli.bench_sampling import conditional_command, sampling_command
from geomol.cli.bench_sizes import sizes_command
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.cli.progress import progress_bar
from geomol.errors import ConfigError, OutputError
from geomol.generate.sampling import SampleSettings
from geomol.study import compare, markdown_table, read_configs, tradeoff_figure
from geomol.train import Progress

bench_app = typer.Typer(help="What a model costs; what each way of having a symmetry costs and gains.")
bench_app.command("cost")(cost_command)
bench_app.command("sizes")(sizes_command)
bench_app.command("sampling")(sampling_command)
bench_app.command("conditional")(conditional_command)


@bench_app.command("symmetry")
def symmetry_command(
    configs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG.toml …", help="Settings to compare; a folder stands for all in it.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A change to every configuration.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Minutes of CPU time for each run.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of each run.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Once for each repetition; 0 by default.")] = None,
    molecules: Annotated[int, typer.Option("--molecules", min=1, help="Sampled from each generator.")] = 1000,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Noise levels in sampling, by Heun's method.")] = 50,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where table.md, table.json and table.png go.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Train each configuration alike and put test error, symmetry error, size and cost in one table.

    Runs that are finished are not repeated, and one that was interrupted goes on, so the same command completes the
    table. The budget is that of the configurations, or --minutes or --epochs for all.
    """
    if minutes is not None and epochs is not None:
        raise ConfigError("give --minutes or --epochs, not both")
    if seed is not None and len(set(seed)) < len(seed):
        raise ConfigError("--seed names one seed twice", got=", ".join(map(str, seed)))
    if out is not None:
        _make_folder(out)  # now, not after hours of training
    budget = [] if epochs is None else [f"schedule.epochs={epochs}"]
    budget += [] if minutes is None else [f"schedule.minutes={minutes}", "schedule.clock=cpu"]
    console = console_for(json_file)
    with progress_bar("training") as bar:

        def show(name: str, progress: Progress) -> None:
            if bar.due():
                bar.update(progress.fraction, f"{name}  epoch {progress.epoch}  loss {progress.loss:.3g}")

        comparison = compare(
            read_configs(configs),
            overrides=overrides or [],
            budget=budget,
            seeds=seed or [0],
            molecules=molecules,
            sampling=SampleSettings(steps=steps),
            on_progress=show,
        )
    table = markdown_table(comparison)
    console.print(Markdown(table))
    if out is not None:
        try:
            (out / "table.md").write_text(table, encoding="utf-8")
            tradeoff_figure(comparison).savefig(out / "table.png", metadata={"Software": None})
        except OSError as error:
            raise OutputError(f"the table cannot be written: {error.strerror}", where=str(out)) from error
        write_json(comparison.figures(), str(out / "table.json"))
        console.print(f"table: {out / 'table.md'}", soft_wrap=True)
    write_json(comparison.figures(), json_file)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error
