"""The sections of the page about results, from the records of a run to HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from ase.formula import Formula

from geomol.md import Estimate
from geomol.report import markup
from geomol.report.md_plots import with_interval
from geomol.report.metrics import MEV_PER_EV, drift_estimate, element_errors, errors, per_atom, symbol
from geomol.report.panels import (
    EV_PER_A3_IN_GPA,
    Panel,
    as_number,
    evaluation_panels,
    force_error_by_structure,
    is_nve,
    setting,
    simulation_panels,
    stated_differs,
    stated_panels,
    training_panels,
)
from geomol.report.plots import number
from geomol.report.run import Evaluation, Run, Simulation, Stated
from geomol.report.trajectory import to_json

Draw = Callable[[Panel], str]


def lead(run: Run) -> str:
    """One sentence under the title: what was evaluated."""
    if not run.evaluations:
        return ""
    first = run.evaluations[0]
    count = len(first.ptr) - 1
    elements = markup.escape(", ".join(symbol(int(value)) for value in np.unique(first.numbers)))
    return f'<p class="lead">Errors on split {markup.escape(first.split)}: {count:,} structures of {elements}.</p>'


def tiles(run: Run) -> str:
    """The summary: force and energy error, parameters, training time, drift."""
    found = []
    if run.evaluations:
        found += _error_tiles(run.evaluations[0])
    for part in run.stated:
        if "accuracy" in part.figures:
            found.append(markup.tile("Accuracy", number(100 * part.figures["accuracy"]), "%", part.part))
    parameters = as_number(run.summary.get("num_parameters"))
    if parameters is not None:
        found.append(markup.tile("Parameters", f"{int(parameters):,}", sub=_model_name(run)))
    seconds = training_seconds(run)
    if seconds is not None:
        value, unit = markup.duration(seconds)
        steps = run.metrics.get("step")
        sub = f"{int(np.nanmax(steps)):,} steps" if steps is not None else ""
        found.append(markup.tile("Training time", value, unit, sub))
    for simulation in run.simulations:
        drift = simulation_drift(simulation)
        if drift is not None:
            time = simulation.columns["time_fs"]
            length = f"{simulation.name}, {number(float(np.ptp(time)) / 1000)} ps"
            found.append(
                markup.tile("NVE energy drift", number(drift.value), "meV/atom/ns", f"{_plus_minus(drift)}{length}")
            )
            break
    return f'<div class="tiles">{"".join(found)}</div>' if found else ""


def _plus_minus(drift: Estimate) -> str:
    return f"± {number(drift.half_width, digits=2)} (95 %) · " if np.isfinite(drift.half_width) else ""


def _model_name(run: Run) -> str:
    model = run.config.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    return name if isinstance(name, str) else ""


def _error_tiles(evaluation: Evaluation) -> list[str]:
    found = []
    kind = "Test" if evaluation.split.startswith("test") else evaluation.split.capitalize()
    if evaluation.forces is not None:
        force = errors(*evaluation.forces)
        sub = f"RMSE {number(MEV_PER_EV * force.rmse)} · {evaluation.split}"
        found.append(markup.tile(f"{kind} force MAE", number(MEV_PER_EV * force.mae), "meV/Å", sub))
    if evaluation.energy is not None:
        energy = errors(*evaluation.energy)
        atomic = errors(*(per_atom(half, evaluation.ptr) for half in evaluation.energy))
        sub = f"{number(MEV_PER_EV * atomic.mae)} meV/atom · {evaluation.split}"
        found.append(markup.tile(f"{kind} energy MAE", number(MEV_PER_EV * energy.mae), "meV", sub))
    if evaluation.stress is not None:
        stress = errors(*evaluation.stress)
        sub = f"RMSE {number(EV_PER_A3_IN_GPA * stress.rmse)} · {evaluation.split}"
        found.append(markup.tile(f"{kind} stress MAE", number(EV_PER_A3_IN_GPA * stress.mae), "GPa", sub))
    return found


def training_seconds(run: Run) -> float | None:
    """Training time from the summary, else from timing.csv, whose clock starts anew when a run is resumed."""
    minutes = as_number(run.summary.get("training_minutes"))
    if minutes is not None:
        return 60 * minutes
    seconds = run.timing.get("seconds")
    if seconds is None:
        return None
    seconds = seconds[np.isfinite(seconds)]
    restarts = np.flatnonzero(np.diff(seconds) < 0)
    return float(seconds[restarts].sum() + seconds[-1])


def simulation_drift(simulation: Simulation) -> Estimate | None:
    """Drift of the total energy of an NVE run (meV/atom/ns), None where it cannot be told."""
    columns, atoms = simulation.columns, simulation.num_atoms
    if atoms is None or not is_nve(simulation) or not {"time_fs", "total_eV"} <= columns.keys():
        return None
    return drift_estimate(columns["time_fs"], columns["total_eV"], atoms)


def training(run: Run, draw: Draw) -> str:
    """Learning curves."""
    panels = training_panels(run.metrics)
    if not panels:
        return markup.missing("There are no learning curves: the run folder has no usable metrics.csv.")
    return markup.grid(draw(panel) for panel in panels)


def accuracy(run: Run, draw: Draw) -> str:
    """Tables and figures of every evaluated split."""
    if not run.evaluations and not run.stated:
        return markup.missing("There are no evaluated splits: the run folder has no usable eval/*.npz or eval/*.json.")
    parts = [_split_table(run.evaluations)] if run.evaluations else []
    if run.stated:
        parts.append(_stated_table(run.stated))
        cards = [draw(panel) for panel in stated_panels(run.stated)]
        parts.append(markup.grid(cards) if cards else "")
    for evaluation in run.evaluations:
        if len(run.evaluations) > 1:
            parts.append(f'<h3 class="part">Split {markup.escape(evaluation.split)}</h3>')
        wrong = stated_differs(evaluation)
        if wrong:
            text = f"eval/{evaluation.split}.json states other values than its arrays give: {', '.join(wrong)}."
            parts.append(markup.note(text))
        cards = [draw(panel) for panel in evaluation_panels(evaluation)]
        parts.append(markup.grid(cards) if cards else markup.missing("Nothing to compare in this split."))
        if evaluation.forces is not None:
            parts.append(_element_table(evaluation))
    return "".join(parts)


def _stated_table(stated: list[Stated]) -> str:
    """A row for each figure, a column for each part of the data."""
    names = list(dict.fromkeys(name for part in stated for name in part.figures))
    rows = [
        [name.replace("_", " "), *(number(p.figures[name]) if name in p.figures else "–" for p in stated)]
        for name in names
    ]
    return f'<div class="card">{markup.table(["Figure", *(p.part for p in stated)], rows)}</div>'


def _split_table(evaluations: list[Evaluation]) -> str:
    header = ["Split", "Structures", "Energy MAE (meV)", "Energy RMSE (meV)", "Energy MAE (meV/atom)",
              "Force MAE (meV/Å)", "Force RMSE (meV/Å)", "Largest force error (meV/Å)"]  # fmt: skip
    rows = []
    for evaluation in evaluations:
        row = [evaluation.split, f"{len(evaluation.ptr) - 1:,}"]
        if evaluation.energy is not None:
            energy = errors(*evaluation.energy)
            atomic = errors(*(per_atom(half, evaluation.ptr) for half in evaluation.energy))
            row += [number(MEV_PER_EV * value) for value in (energy.mae, energy.rmse, atomic.mae)]
        else:
            row += ["–"] * 3
        if evaluation.forces is not None:
            force = errors(*evaluation.forces)
            row += [number(MEV_PER_EV * value) for value in (force.mae, force.rmse, force.largest)]
        else:
            row += ["–"] * 3
        rows.append(row)
    return f'<div class="card">{markup.table(header, rows)}</div>'


def _element_table(evaluation: Evaluation) -> str:
    assert evaluation.forces is not None
    header = ["Element", "Atoms", "MAE (meV/Å)", "RMSE (meV/Å)", "Largest (meV/Å)", "RMS force (meV/Å)", "RMSE / RMS",
              "Median angle (°)"]  # fmt: skip
    rows = []
    for row in element_errors(evaluation.numbers, *evaluation.forces):
        found = row.errors
        share = f"{number(100 * found.rmse / row.scale)} %" if row.scale > 0 else "–"
        values = [number(MEV_PER_EV * value) for value in (found.mae, found.rmse, found.largest, row.scale)]
        rows.append([row.symbol, f"{row.atoms:,}", *values, share, number(row.angle)])
    worst = force_error_by_structure(evaluation)
    place = int(np.nanargmax(worst)) if np.isfinite(worst).any() else 0
    caption = (
        f"The largest force error, {number(MEV_PER_EV * float(worst[place]))} meV/Å, is in structure {place} "
        "of the split, counted from 0. Angles are between predicted and reference force vectors."
    )
    return markup.card(markup.table(header, rows), title="Force errors by element", caption=caption)  # fmt: skip


def dynamics(run: Run, draw: Draw) -> str:
    """Observables and the moving picture of every simulation."""
    if not run.simulations:
        return markup.missing("There are no simulations: the run folder has no md/*.csv and no md/*.extxyz.")
    parts = []
    for index, simulation in enumerate(run.simulations):
        cards = [_viewer(simulation, f"trajectory-{index}")] if simulation.trajectory is not None else []
        cards += [draw(panel) for panel in simulation_panels(simulation)]
        parts.append(f'<h3 class="part">{markup.escape(_headline(simulation))}</h3>')
        parts += [markup.note(text) for text in simulation.notes]
        if simulation.trajectory is None and not simulation.notes:
            parts.append(markup.missing("There is no trajectory to show for this simulation."))
        if "total_eV" in simulation.columns and simulation.num_atoms is None:
            parts.append(markup.missing("Energies are not drawn: the number of atoms is not known."))
        parts.append(markup.grid(cards))
        stated = {key: value for key, value in markup.flatten(simulation.info).items() if len(value) <= 120}
        if stated:
            parts.append(
                f"<details><summary>Settings and results</summary>{markup.card(markup.pairs(stated))}</details>"
            )
    return "".join(parts)


def _headline(simulation: Simulation) -> str:
    facts = [simulation.name]
    ensemble = setting(simulation.info, "ensemble")
    if isinstance(ensemble, str):
        facts.append(ensemble.upper())
    if simulation.trajectory is not None:
        facts.append(Formula.from_list(simulation.trajectory.symbols).format("hill"))
    time = simulation.columns.get("time_fs")
    if time is not None:
        facts.append(f"{number(float(np.nanmax(time) - np.nanmin(time)) / 1000)} ps")
    drift = simulation_drift(simulation)
    if drift is not None:
        facts.append(f"drift {with_interval(drift)} meV/atom/ns")
    return " · ".join(facts)


def _viewer(simulation: Simulation, name: str) -> str:
    trajectory = simulation.trajectory
    assert trajectory is not None
    frames = len(trajectory.frame_index)
    look = "spheres" if trajectory.cells is not None else "balls"
    options = "".join(
        f'<option value="{value}"{" selected" if value == look else ""}>{text}</option>'
        for value, text in (("balls", "Balls and sticks"), ("spheres", "Spheres"), ("sticks", "Sticks"))
    )
    speeds = "".join(
        f'<option value="{rate}"{" selected" if rate == 15 else ""}>{rate} fps</option>' for rate in (5, 15, 30)
    )
    caption = f"{frames:,} of {trajectory.num_frames:,} frames"
    caption += ", centred on the molecule." if trajectory.cells is None else "; the box is the simulation cell."
    caption += " Drag to rotate, scroll or pinch to zoom."
    if not trajectory.complete:
        caption += " The file ends inside a frame; the complete ones are shown."
    content = (
        f'<div class="viewer" data-source="{name}"><div class="stage"></div><div class="controls">'
        '<button type="button" class="play" aria-pressed="false">▶ Play</button>'
        f'<input type="range" class="frame" min="0" max="{frames - 1}" value="0" aria-label="Frame">'
        '<span class="readout"></span></div><div class="controls">'
        f'<select class="speed" aria-label="Frames per second">{speeds}</select>'
        f'<select class="look" aria-label="Style">{options}</select>'
        '<button type="button" class="reset">Reset view</button></div></div>'
        f'<script type="application/json" id="{name}">{markup.script_json(to_json(trajectory))}</script>'
    )
    return markup.card(content, title="Trajectory", caption=caption)
