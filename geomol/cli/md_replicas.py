"""`geomol md --replicas N`: many simulations of one structure at once."""

from __future__ import annotations

from pathlib import Path

import typer
from ase import Atoms

from geomol.cli.output import console_for, print_figures, write_json
from geomol.cli.progress import progress_bar
from geomol.errors import ConfigError
from geomol.md import BatchProgress, GeomolCalculator, MDConfig, run_batched_md

STOPPED = 1


def temperature_list(text: str | None) -> list[float] | None:
    """Temperatures written 300,350,400.

    Raises:
        ConfigError: something else.
    """
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError("temperatures are written 300,350,400", got=text) from None


def describe(progress: BatchProgress) -> str:
    """The figures of the moment in one line."""
    time_ps = progress.time_fs / 1000
    speed = f"{progress.ns_per_day:.3g} ns/day in all"
    return f"{progress.replicas} × {time_ps:.3g} ps  {progress.temperature_K:.0f} K  {speed}"


def simulate_replicas(
    atoms: Atoms,
    calculator: GeomolCalculator,
    config: MDConfig,
    folder: Path,
    *,
    replicas: int,
    temperatures_K: list[float] | None,
    resume: bool,
    overwrite: bool,
    json_file: str | None,
) -> None:
    """Simulate, print the figures, and end with code 1 if a guard has stopped a replica."""
    with progress_bar(config.ensemble) as bar:

        def show(progress: BatchProgress) -> None:
            if bar.due() or progress.step == progress.steps:
                bar.update(progress.step / progress.steps, describe(progress), eta_s=progress.eta_s)

        result = run_batched_md(
            atoms,
            calculator,
            config,
            folder,
            replicas=replicas,
            temperatures_K=temperatures_K,
            on_progress=show,
            resume=resume,
            overwrite=overwrite,
        )
    console = console_for(json_file)
    figures = {key: value for key, value in result.summary.items() if not isinstance(value, dict | list)}
    title = f"{config.ensemble}, {replicas} replicas of {len(atoms)} atoms"
    print_figures(console, {**figures, "ns_per_day": result.ns_per_day}, title=title)
    for entry in result.stopped:
        console.print(f"STOPPED: {entry.reason}", soft_wrap=True, markup=False)
    console.print(f"trajectories: {result.trajectories[0]} …", soft_wrap=True)
    console.print(f"table: {result.table}", soft_wrap=True)
    write_json({**result.summary, "ns_per_day": result.ns_per_day}, json_file)
    if result.stopped:
        raise typer.Exit(STOPPED)
