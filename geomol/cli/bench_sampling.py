"""`geomol bench sampling MODEL`: stable molecules against evaluations of the model, and against training time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from geomol.checkpoint import load_denoiser, load_property_model, read_manifest
from geomol.checkpoint.atomic import write_atomically
from geomol.cli.arguments import DataArgument, DeviceOption, ModelArgument, ThreadsOption, cpu_threads, run_folder
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.data import load_qm9
from geomol.errors import ConfigError
from geomol.generate.read import read_molecules
from geomol.generate.sampling import SampleSettings
from geomol.study import (
    CurvePoint,
    Wanted,
    asked_and_got,
    counted,
    curve_figure,
    curves_json,
    predicted,
    sampler_curve,
    training_curve,
)
from geomol.train import recorded_test_rows


def sampling_command(
    model: ModelArgument,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Molecules for each point.")] = 500,
    samplers: Annotated[str, typer.Option("--samplers", help="Names, with commas.")] = "heun,multistep,ancestral,ddim",
    steps: Annotated[str, typer.Option("--steps", help="Numbers of noise levels, with commas.")] = "10,25,50",
    churn: Annotated[float, typer.Option("--churn", min=0, help="A further row of heun with this much noise.")] = 0.0,
    snapshots: Annotated[
        bool,
        typer.Option("--snapshots", help="Along the snapshots of a run instead, with the first sampler and steps."),
    ] = False,
    every: Annotated[int, typer.Option("--every", min=1, help="Take every so-manieth snapshot.")] = 1,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the curve and its figures go.")
    ] = Path("sampling"),
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 64,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Sample the same molecules many ways and judge them by the protocol edm."""
    console = console_for(json_file)
    counts = [_count(word) for word in steps.split(",")]
    chosen = [
        SampleSettings(sampler=name, steps=count, batch_size=batch_size)
        for name in samplers.split(",")
        for count in counts
    ]
    if churn:
        chosen += [SampleSettings(sampler="heun", steps=count, churn=churn, batch_size=batch_size) for count in counts]
    for settings in chosen:
        settings.check()

    def show(point: CurvePoint) -> None:
        _print(console, point)

    with cpu_threads(threads):
        if snapshots:
            folder = run_folder(model)
            if folder is None:
                raise ConfigError("snapshots are kept in run folders", got=model)
            points = training_curve(folder, chosen[0], num=num, every=every, on_point=show)
        else:
            points = sampler_curve(
                load_denoiser(model, device=device), Path(model).name, chosen, num=num, on_point=show
            )
    stem = "training" if snapshots else "samplers"
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{stem}.json", curves_json(points).encode())
    curve_figure(points).savefig(out / f"{stem}.png", metadata={"Software": None})
    console.print(f"curve: {out / stem}.png", soft_wrap=True)
    write_json({"points": [vars(point) for point in points]}, json_file)


def _count(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise ConfigError("--steps takes positive numbers", expected="such as 10,25,50", got=word)
    return int(word)


def _print(console: Console, point: CurvePoint) -> None:
    time = "" if point.training_minutes is None else f"  {point.training_minutes:.0f} min"
    churn = f" churn {point.churn:g}" if point.churn else ""
    console.print(
        f"{point.model}{time}  {point.sampler}{churn} {point.evaluations} evaluations: molecules stable "
        f"{100 * point.molecule_stability:.1f} ± {100 * point.molecule_stability_standard_error:.1f} %, atoms "
        f"{100 * point.atom_stability:.1f} %, valid {100 * point.valid:.1f} %, connected {100 * point.connected:.1f} %",
        soft_wrap=True,
    )


def conditional_command(
    model: ModelArgument,
    data: DataArgument,
    condition: Annotated[str, typer.Option("--condition", help="The property.")] = "heavy_atoms",
    predictor: Annotated[
        str | None, typer.Option("--predictor", metavar="MODEL", help="Measures a property that cannot be counted.")
    ] = None,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Molecules for each guidance.")] = 500,
    guidance: Annotated[
        str, typer.Option("--guidance", help="Weights of the condition, with commas; 0: not told.")
    ] = "0,1,2",
    sampler: Annotated[str, typer.Option("--sampler")] = "heun",
    steps: Annotated[int, typer.Option("--steps", min=1)] = 25,
    churn: Annotated[float, typer.Option("--churn", min=0)] = 0.0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Ask for values and sizes drawn together from data, and say how far the molecules are from them."""
    try:
        weights = [float(word) for word in guidance.split(",")]
    except ValueError:
        raise ConfigError("--guidance takes numbers", expected="such as 0,1,2", got=guidance) from None
    wanted = _wanted(model, condition, data, predictor, device)
    settings = SampleSettings(sampler=sampler, steps=steps, churn=churn)
    with cpu_threads(threads):
        rows = asked_and_got(
            load_denoiser(model, device=device),
            wanted,
            condition=condition,
            num=num,
            guidances=weights,
            settings=settings,
        )
    console = console_for(json_file)
    for row in rows:
        console.print(
            f"{condition}, guidance {row.guidance:g}: MAE {row.mae:.3f} (from the size alone {row.mae_size_only:.3f}, "
            f"random {row.mae_random:.3f}, of the measure {row.mae_of_measure:.3f}), "
            f"stable molecules {100 * row.molecule_stability:.1f} %",
            soft_wrap=True,
        )
    write_json({"rows": [vars(row) for row in rows]}, json_file)


def _wanted(generator: str, condition: str, data: str, predictor: str | None, device: str) -> Wanted:
    """The property, by counting, or by another model on data with known values that the generator was not shown."""
    if predictor is None:
        return counted(condition, read_molecules(data).structures)
    measure = load_property_model(predictor, device=device)
    if data != "qm9":
        raise ConfigError("values of a property to ask for come with a data set", expected="qm9", got=data)
    structures, table = load_qm9()
    rows = recorded_test_rows(read_manifest(generator), structures)
    return predicted(condition, structures.subset(rows), table.column(condition)[rows], measure)
