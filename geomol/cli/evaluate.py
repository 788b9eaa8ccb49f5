"""`geomol eval MODEL DATA`: how far a model is from reference calculations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from ase.data import chemical_symbols

from geomol.checkpoint import load_model
from geomol.cli.arguments import (
    BatchOption,
    DataArgument,
    DeviceOption,
    DtypeOption,
    ModelArgument,
    SkipBadOption,
    ThreadsOption,
    UnitsOption,
    VotesOption,
    check_votes,
    cpu_threads,
    run_folder,
)
from geomol.cli.audit_models import missing_file
from geomol.cli.output import JsonOption, console_for, print_figures, write_json
from geomol.data import load_nbody, load_qm9, load_structures
from geomol.data.cloud_categories import load_category, names_clouds
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError
from geomol.forecast import Forecaster
from geomol.generate.read import read_molecules
from geomol.labels import LabelModel
from geomol.potential import Potential
from geomol.properties import PropertyModel
from geomol.report import save_confusion_figure, save_plots
from geomol.train import (
    evaluate,
    evaluate_forecast,
    evaluate_generation,
    evaluate_poses,
    evaluate_properties,
    load_labelled,
    measure_labels,
    save_confusion,
    save_evaluation,
    warn_of_scale,
)
from geomol.train.evaluate_generation import USUAL_POINTS, evaluate_clouds


def eval_command(
    model: ModelArgument,
    data: DataArgument,
    split: Annotated[
        str | None, typer.Option("--split", help="A part of the data, such as test or test_1; all of it by default.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where arrays and plots go; a run folder is its own."),
    ] = None,
    batch_size: BatchOption = 32,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    units: UnitsOption = None,
    skip_bad: SkipBadOption = False,
    votes: VotesOption = 1,
    json_file: JsonOption = None,
) -> None:
    """Errors of energies, forces and stresses against reference labels, with parity plots; or of a forecast."""
    loaded = load_model(model, device=device, dtype=dtype)
    console, folder = console_for(json_file), out or run_folder(model)
    if not isinstance(loaded, LabelModel):
        check_votes(votes, model)
    if not isinstance(loaded, Potential):
        name = data
        with cpu_threads(threads):
            if isinstance(loaded, Forecaster):
                figures = evaluate_forecast(loaded, load_nbody(data), split)
                if folder is not None:
                    (folder / "eval").mkdir(parents=True, exist_ok=True)
                    write_json(figures, str(folder / "eval" / f"{split or Path(data).name}.json"))
            elif isinstance(loaded, Denoiser):
                figures, name = _denoiser(loaded, data, split)
            elif isinstance(loaded, PropertyModel):
                figures = _properties(loaded, data, split)
            else:
                figures = _labels(loaded, data, split, folder, votes)
        print_figures(console, figures, title=f"{model} on {name}")
        write_json(figures, json_file)
        return
    structures = load_structures(data, units=units, skip_bad=skip_bad)
    if split is not None:
        structures = structures.split(split)
    with cpu_threads(threads):
        evaluation = evaluate(loaded, structures, batch_size=batch_size, device=device)
    print_figures(console, evaluation.metrics, title=f"{model} on {structures.name}")
    if evaluation.per_element:
        by_symbol = {f"{chemical_symbols[z]}_eV_per_A": mae for z, mae in evaluation.per_element.items()}
        print_figures(console, by_symbol, title="force mae by element")
    if folder is not None:
        save_evaluation(evaluation, folder / "eval", split or Path(data).stem)
        for path in save_plots(folder):
            console.print(f"plot: {path}", soft_wrap=True)
    by_element = {chemical_symbols[z]: mae for z, mae in evaluation.per_element.items()}
    write_json({**evaluation.metrics, "force_mae_eV_per_A_by_element": by_element}, json_file)


def _denoiser(model: Denoiser, data: str, split: str | None) -> tuple[dict[str, float], str]:
    """Errors of a denoiser, and the name of what it was judged on: of clouds the stored test part, where there is one
    and no other is asked for.
    """
    if names_clouds(data) != (not model.elements) and not missing_file(data):
        raise ConfigError(
            "a denoiser is judged on what it makes",
            where=data,
            expected="molecules, such as qm9" if model.elements else "point clouds, such as modelnet10/chair",
        )
    if model.elements:
        structures = read_molecules(data).structures
        structures = structures if split is None else structures.split(split)
        return evaluate_generation(model, structures), structures.name
    clouds = load_category(data, num_points=max(model.sizes, default=USUAL_POINTS))
    part = split or ("test" if "test" in clouds.splits else None)
    clouds = clouds if part is None else clouds.split(part)
    return evaluate_clouds(model, clouds), clouds.name


def _properties(model: PropertyModel, data: str, split: str | None) -> dict[str, float]:
    """Errors of a property model on data with a table; "holdout" is the official test part of G4MP2."""
    if data != "qm9":
        raise ConfigError("no table of properties goes with these data", expected="qm9", got=data)
    structures, table = load_qm9()
    if model.vector:
        values, _ = table.vector(model.targets[0].name)
    else:
        values = np.stack([table.column(target.name) for target in model.targets], axis=1)
    known = np.isfinite(values).any(axis=1)
    if split == "holdout":
        known &= table.holdout
    elif split is not None:
        raise ConfigError("this data set has no such part", expected="holdout", got=split)
    rows = np.flatnonzero(known)
    return evaluate_properties(model, structures.subset(rows), values[rows])[0]


def _labels(model: LabelModel, data: str, split: str | None, folder: Path | None, votes: int) -> dict[str, float]:
    """Figures under rotations about z and of SO(3), and in the folder the confusion matrix of each."""
    clouds = load_labelled(data, num_points=model.num_points)
    clouds = clouds if split is None else clouds.split(split)
    warn_of_scale(model, clouds)
    found = evaluate_poses(model, clouds, votes=votes)
    for pose, evaluation in found.items() if folder is not None else ():
        assert folder is not None
        name = f"{split or Path(data).stem}-{pose}"
        save_confusion(evaluation, folder / "eval", name)
        save_confusion_figure(evaluation.confusion, evaluation.names, folder / "plots" / f"confusion-{name}.png")
    return measure_labels(model, clouds, found, votes=votes)
