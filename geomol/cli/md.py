"""`geomol md MODEL start.xyz`: molecular dynamics with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from ase import Atoms

from geomol.cli.arguments import (
    DeviceOption,
    DtypeOption,
    IndexOption,
    ModelArgument,
    StructureArgument,
    TabulateOption,
    ThreadsOption,
    cpu_threads,
    key_values,
    run_folder,
    structure_at,
)
from geomol.cli.calculators import calculator_of
from geomol.cli.md_replicas import simulate_replicas, temperature_list
from geomol.cli.output import JsonOption, console_for, print_figures, write_json
from geomol.cli.progress import progress_bar
from geomol.md import GeomolCalculator, MDConfig, Progress, run_md

# The short names people use, and the integrator each stands for.
ENSEMBLES = {"nvt": "nvt-langevin", "langevin": "nvt-langevin", "bussi": "nvt-bussi"}


SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value …]", help="Any other setting of MDConfig, such as thermostat_fs=50."),
]
EnsembleOption = Annotated[str, typer.Option(help="nve, nvt (nvt-langevin, nvt-bussi, nvt-nose-hoover) or npt.")]
TemperatureOption = Annotated[float, typer.Option(help="K")]
TimestepOption = Annotated[float, typer.Option(help="fs")]
StepsOption = Annotated[int, typer.Option(help="Number of steps.")]
PressureOption = Annotated[float, typer.Option(help="GPa, for npt")]
IntervalOption = Annotated[int, typer.Option(help="Steps between frames.")]
SeedOption = Annotated[int, typer.Option(help="Of the momenta and of the thermostat.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="RUN/md for a run folder, else runs/md.")
]
NameOption = Annotated[str | None, typer.Option(help="Stem of the files; the ensemble by default.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Start anew over earlier files.")]
ReplicasOption = Annotated[
    int | None, typer.Option(min=1, help="Simulate so many copies at once, each with its own momenta and noise.")
]
TemperaturesOption = Annotated[
    str | None, typer.Option(metavar="K,K,…", help="One temperature per replica, instead of --temperature.")
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the model first: up to minutes once, then faster steps.")
]


def md_command(
    model: ModelArgument,
    start: StructureArgument,
    settings: SettingsArgument = None,
    ensemble: EnsembleOption = "nvt-langevin",
    temperature: TemperatureOption = 300.0,
    timestep: TimestepOption = 0.5,
    steps: StepsOption = 10_000,
    pressure: PressureOption = 0.0,
    interval: IntervalOption = 10,
    seed: SeedOption = 0,
    out: OutOption = None,
    name: NameOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    replicas: ReplicasOption = None,
    temperatures: TemperaturesOption = None,
    compile_step: CompileOption = False,
    tabulate: TabulateOption = False,
    index: IndexOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Simulate. Guards stop an explosion, and the last good frame is kept; --resume goes on byte for byte."""
    chosen: dict[str, Any] = {
        "ensemble": ENSEMBLES.get(ensemble, ensemble),
        "temperature_K": temperature,
        "timestep_fs": timestep,
        "steps": steps,
        "pressure_GPa": pressure,
        "interval": interval,
        "seed": seed,
        "name": name or ensemble,
        **key_values(settings or []),
    }
    config = MDConfig(**chosen)
    atoms = structure_at(start, index)
    calculator = calculator_of(model, device=device, dtype=dtype, compile=compile_step, tabulate=tabulate)
    check_start(atoms, calculator)
    folder = out or (run_folder(model) or Path("runs")) / "md"
    kelvins = temperature_list(temperatures)
    with cpu_threads(threads):
        if replicas is None and kelvins is None:
            simulate(atoms, calculator, config, folder, resume=resume, overwrite=overwrite, json_file=json_file)
            return
        simulate_replicas(
            atoms,
            calculator,
            config,
            folder,
            replicas=replicas or len(kelvins or ()),
            temperatures_K=kelvins,
            resume=resume,
            overwrite=overwrite,
            json_file=json_file,
        )


def check_start(atoms: Atoms, calculator: GeomolCalculator) -> None:
    """A structure that the model refuses shows here, before any file is made; the driver finds the result stored."""
    atoms.calc = calculator
    atoms.get_potential_energy()


def simulate(
    atoms: Atoms,
    calculator: GeomolCalculator,
    config: MDConfig,
    folder: Path,
    *,
    resume: bool,
    overwrite: bool,
    json_file: str | None,
) -> None:
    """Simulate one system, with a bar, and print the figures."""
    with progress_bar(config.ensemble) as bar:

        def show(progress: Progress) -> None:
            if bar.due() or progress.step == progress.steps:
                bar.update(progress.step / progress.steps, describe(progress), eta_s=progress.eta_s)

        result = run_md(atoms, calculator, config, folder, on_progress=show, resume=resume, overwrite=overwrite)
    console = console_for(json_file)
    figures = {key: value for key, value in result.summary.items() if not isinstance(value, dict)}
    print_figures(console, {**figures, "ns_per_day": result.ns_per_day}, title=f"{config.ensemble}, {len(atoms)} atoms")
    console.print(f"trajectory: {result.trajectory}", soft_wrap=True)
    write_json({**result.summary, "ns_per_day": result.ns_per_day}, json_file)


def describe(progress: Progress) -> str:
    """The figures of the moment in one line."""
    time_ps = progress.time_fs / 1000
    return f"{time_ps:.3g} ps  {progress.temperature_K:.0f} K  {progress.ns_per_day:.3g} ns/day"
