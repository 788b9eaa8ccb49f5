"""Which figures a run has: the named panels of training, of an evaluation and of a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray

from geomol.report import md_plots, plots
from geomol.report.confusion import confusion_figure
from geomol.report.distributions import bond_distribution, radial_distribution
from geomol.report.metrics import MEV_PER_EV, element_errors, errors, per_atom
from geomol.report.run import Columns, Evaluation, Simulation, Stated

MOST_PROPERTIES = 4  # with more of them, their mean alone is drawn
EV_PER_A3_IN_GPA = 160.21766208


@dataclass(frozen=True)
class Panel:
    """A figure with the name of its file, the title above it and the sentence below it."""

    name: str
    title: str
    caption: str
    figure: Figure


def training_panels(metrics: Columns) -> list[Panel]:
    """Loss, validation errors and learning rate against the step, as far as metrics.csv has them."""
    if not metrics:
        return []
    some = next(iter(metrics.values()))
    step = metrics.get("step", np.arange(len(some), dtype=np.float64))
    found = []
    losses = {
        name: metrics[key] for key, name in (("train_loss", "training"), ("valid_loss", "validation")) if key in metrics
    }
    if losses:
        figure = plots.learning_curve(step, losses, ylabel="Loss")
        which = " and ".join(losses).capitalize()
        found.append(Panel("loss", "Loss", f"{which} loss at each log entry.", figure))
    for quantity, unit, scale, title in (
        ("force", "eV_per_A", MEV_PER_EV, "Validation force error"),
        ("energy", "eV", MEV_PER_EV, "Validation energy error"),
        ("stress", "eV_per_A3", EV_PER_A3_IN_GPA, "Validation stress error"),
    ):
        series = {
            kind.upper(): scale * metrics[key]
            for kind in ("mae", "rmse")
            if (key := f"valid_{quantity}_{kind}_{unit}") in metrics
        }
        if series:
            shown = {"force": "meV/Å", "energy": "meV", "stress": "GPa"}[quantity]
            ylabel = f"{quantity.capitalize()} error ({shown})"
            if len(series) == 1:
                ylabel = f"{quantity.capitalize()} {next(iter(series))} ({shown})"
            figure = plots.learning_curve(step, series, ylabel=ylabel, unit=shown, mark_best=True)
            found.append(
                Panel(f"valid_{quantity}", title, "On the validation split, which chooses the best model.", figure)
            )
    if "valid_position_mse" in metrics:
        curve = {"MSE": metrics["valid_position_mse"]}
        figure = plots.learning_curve(step, curve, ylabel="MSE of positions", mark_best=True)
        caption = "Mean square error of coordinates, in units of the data, on the split that chooses the best model."
        found.append(Panel("valid_position", "Validation position error", caption, figure))
    found += _denoising_panels(step, metrics) + _share_panels(step, metrics) + _property_panels(step, metrics)
    if "lr" in metrics and len(np.unique(metrics["lr"])) > 1:
        rate = np.where(metrics["lr"] > 0, metrics["lr"], np.nan)  # the 0 at the end has no place on a logarithmic axis
        figure = plots.learning_curve(step, {"learning rate": rate}, ylabel="Learning rate")
        found.append(Panel("lr", "Learning rate", "Step size of the optimiser.", figure))
    return found


def _denoising_panels(step: ndarray, metrics: Columns) -> list[Panel]:
    """The parts of a generator's loss; one that stays 0, as bonds do without a head for them, is left out."""
    names = {"positions": "positions", "positions_low": "positions, low noise", "types": "elements", "bonds": "bonds"}
    curves = {
        name: metrics[key]
        for part, name in names.items()
        if (key := f"valid_{part}") in metrics and bool((metrics[key] != 0).any())
    }
    if not curves:
        return []
    ylabel = "Part of the validation loss" if len(curves) > 1 else f"Validation loss, {next(iter(curves))}"
    figure = plots.learning_curve(step, curves, ylabel=ylabel)
    caption = "Before the weights of the loss: positions (at all levels, and at low noise alone), elements, bonds."
    return [Panel("valid_denoising", "What the loss is made of", caption, figure)]


def _share_panels(step: ndarray, metrics: Columns) -> list[Panel]:
    """Accuracies of classes and of parts, in percent."""
    shares = {
        key.removeprefix("valid_").replace("_", " "): 100 * values
        for key, values in metrics.items()
        if key.startswith("valid_") and key.endswith(("accuracy", "miou"))
    }
    if not shares:
        return []
    figure = plots.learning_curve(step, shares, ylabel="Right on the validation split (%)", unit="%")
    caption = "Share of clouds (or points) labelled right, and its mean over classes; overlap of parts for mIoU."
    return [Panel("valid_accuracy", "Validation accuracy", caption, figure)]


def _property_panels(step: ndarray, metrics: Columns) -> list[Panel]:
    """Mean absolute error of each property, in its unit; of many, their mean in units of the spreads."""
    known = ("valid_force_", "valid_energy_", "valid_stress_")
    keys = [key for key in metrics if key.startswith("valid_") and "_mae_" in key and not key.startswith(known)]
    errors = [key for key in keys if key != "valid_mae_of_spread"]
    found = []
    for key in errors if len(errors) <= MOST_PROPERTIES else []:
        name, _, unit = key.removeprefix("valid_").partition("_mae_")
        shown = unit.replace("_per_", "/").replace("_", " ")
        figure = plots.learning_curve(
            step, {"MAE": metrics[key]}, ylabel=f"{name} MAE ({shown})", unit=shown, mark_best=True
        )
        found.append(Panel(f"valid_{name}", f"Validation error: {name}", "On the validation split.", figure))
    if len(errors) > 1 and "valid_mae_of_spread" in metrics:
        curve = {"MAE / spread": metrics["valid_mae_of_spread"]}
        figure = plots.learning_curve(step, curve, ylabel="Mean of MAE / spread", mark_best=True)
        found.append(
            Panel(
                "valid_properties",
                "Validation error",
                "Mean over the properties, which chooses the best model.",
                figure,
            )
        )
    return found


def evaluation_panels(evaluation: Evaluation) -> list[Panel]:
    """Parity of energy, forces and stress, error distributions and errors by element of one split."""
    found = []
    split = evaluation.split
    if evaluation.energy is not None:
        found.append(_energy_parity(evaluation))
    if evaluation.forces is not None:
        reference, predicted = evaluation.forces
        figure = plots.parity(
            reference, predicted, quantity="force", unit="eV/Å", error_unit="meV/Å", error_scale=MEV_PER_EV
        )
        caption = "All Cartesian force components; colour is the logarithm of the density where points are many."
        found.append(Panel(f"{split}_forces", "Forces", caption, figure))
        deviation = MEV_PER_EV * (predicted - reference)
        figure = plots.error_histogram(deviation, xlabel="Predicted − reference force", unit="meV/Å")
        found.append(Panel(f"{split}_force_errors", "Force errors", "Distribution over all components.", figure))
        rows = element_errors(evaluation.numbers, reference, predicted)
        caption = "Force components of the atoms of each element."
        found.append(Panel(f"{split}_elements", "Force error by element", caption, plots.element_bars(rows)))
    if evaluation.stress is not None:
        reference, predicted = (EV_PER_A3_IN_GPA * half for half in evaluation.stress)
        figure = plots.parity(reference, predicted, quantity="stress", unit="GPa", error_unit="GPa")
        found.append(Panel(f"{split}_stress", "Stress", "All nine components, positive under tension.", figure))
    return found


def stated_panels(stated: list[Stated]) -> list[Panel]:
    """The confusion matrix of each part that has one."""
    caption = "Rows are the true classes, columns the found ones; colour is the share of a row."
    return [
        Panel(
            f"confusion_{part.part}", f"Confusion, {part.part}", caption, confusion_figure(part.confusion, part.names)
        )
        for part in stated
        if part.confusion is not None
    ]


def _energy_parity(evaluation: Evaluation) -> Panel:
    assert evaluation.energy is not None
    reference, predicted = (per_atom(half, evaluation.ptr) for half in evaluation.energy)
    finite = reference[np.isfinite(reference)]
    wide = finite.size > 0 and np.ptp(finite) > 2.0
    unit, scale = ("eV/atom", 1.0) if wide else ("meV/atom", MEV_PER_EV)
    figure = plots.parity(
        reference * scale,
        predicted * scale,
        quantity="energy",
        unit=unit,
        error_unit="meV/atom",
        error_scale=MEV_PER_EV / scale,
        centre=True,
    )
    caption = "Energy per atom of each structure; the mean of the reference is subtracted from both axes."
    return Panel(f"{evaluation.split}_energy", "Energy", caption, figure)


def simulation_panels(simulation: Simulation) -> list[Panel]:
    """Observables against time and the distributions of one simulation."""
    columns, name, found = simulation.columns, simulation.name, []
    time = columns.get("time_fs")
    if time is not None:
        if "temperature_K" in columns:
            target = None if is_nve(simulation) else as_number(setting(simulation.info, "temperature_K", "temperature"))
            figure = md_plots.time_series(time, columns["temperature_K"], ylabel="Temperature", unit="K", target=target)
            found.append(Panel(f"{name}_temperature", "Temperature", "Instantaneous kinetic temperature.", figure))
        found += _energy_panels(simulation, time)
        for key, title, unit in (("volume_A3", "Volume", "Å³"), ("pressure_GPa", "Pressure", "GPa")):
            if key in columns:
                target = _target_pressure(simulation) if key == "pressure_GPa" else None
                figure = md_plots.time_series(time, columns[key], ylabel=title, unit=unit, target=target)
                found.append(Panel(f"{name}_{title.lower()}", title, f"{title} of the cell.", figure))
    return found + _distance_panels(simulation)


def _energy_panels(simulation: Simulation, time: ndarray) -> list[Panel]:
    columns, name, atoms = simulation.columns, simulation.name, simulation.num_atoms
    if atoms is None or "total_eV" not in columns:
        return []
    found = []
    if "potential_eV" in columns:
        figure = md_plots.energy_series(time, columns["potential_eV"], columns["total_eV"], num_atoms=atoms)
        found.append(Panel(f"{name}_energy", "Energy", "Potential and total energy, each about its mean.", figure))
    if is_nve(simulation):
        figure = md_plots.drift_plot(time, columns["total_eV"], num_atoms=atoms)
        caption = "Total energy, which NVE dynamics conserves, with the least-squares line."
        found.append(Panel(f"{name}_drift", "Energy conservation", caption, figure))
    return found


def _distance_panels(simulation: Simulation) -> list[Panel]:
    trajectory, name = simulation.trajectory, simulation.name
    if trajectory is None or len(trajectory.frame_index) < 2:
        return []
    caption = f"Over the {len(trajectory.frame_index)} frames kept in this report."
    found = []
    if trajectory.cells is not None and (curves := radial_distribution(trajectory)):
        figure = md_plots.distribution(curves, xlabel="Distance r (Å)", ylabel="g(r)")
        found.append(Panel(f"{name}_rdf", "Radial distribution", caption, figure))
    if trajectory.cells is None and (curves := bond_distribution(trajectory)):
        figure = md_plots.distribution(curves, xlabel="Bond length (Å)", ylabel="Density (1/Å)")
        found.append(Panel(f"{name}_bonds", "Bond lengths", caption, figure))
    return found


def _target_pressure(simulation: Simulation) -> float | None:
    ensemble = setting(simulation.info, "ensemble")
    barostat = isinstance(ensemble, str) and ensemble.lower().startswith("npt")
    return as_number(setting(simulation.info, "pressure_GPa")) if barostat else None


def is_nve(simulation: Simulation) -> bool:
    """Whether the total energy should be conserved: by the stated ensemble, else by the name of the run."""
    ensemble = setting(simulation.info, "ensemble")
    return "nve" in (ensemble if isinstance(ensemble, str) else simulation.name).lower()


def setting(info: Mapping[str, Any], *names: str) -> Any:
    """The first of these names that a JSON has, at its top or among its settings."""
    for group in (info, info.get("settings")):
        if isinstance(group, Mapping):
            for name in names:
                if name in group:
                    return group[name]
    return None


def as_number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value):
        return float(value)
    return None


def force_error_by_structure(evaluation: Evaluation) -> ndarray:
    """Largest force-component error (eV/Å) of each structure."""
    assert evaluation.forces is not None
    deviation = np.abs(evaluation.forces[1] - evaluation.forces[0]).max(axis=1)
    largest: ndarray = np.maximum.reduceat(deviation, evaluation.ptr[:-1])
    return largest


def stated_differs(evaluation: Evaluation) -> list[str]:
    """Names of figures in eval/<split>.json that the arrays beside it do not give (to 0.1 %)."""
    wrong = []
    for key, pair in (("force_mae_eV_per_A", evaluation.forces), ("energy_mae_eV", evaluation.energy)):
        stated = as_number(evaluation.stated.get(key))
        if pair is not None and stated is not None and abs(errors(*pair).mae - stated) > 1e-3 * abs(stated) + 1e-9:
            wrong.append(key)
    return wrong
