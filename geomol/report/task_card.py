"""Publishing models of properties, labels and forecasts: weights, test figures, symmetry error, and a card."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomol.checkpoint import load_model, save_model
from geomol.data import load_nbody
from geomol.errors import ConfigError, DataError
from geomol.forecast import Forecaster
from geomol.labels import LabelModel
from geomol.models import Symmetry
from geomol.properties import PropertyModel
from geomol.report.card import copy_records, make_folder, read_record
from geomol.report.confusion import save_confusion_figure
from geomol.train import (
    LabelEvaluation,
    TrainConfig,
    evaluate_forecast,
    evaluate_poses,
    evaluate_properties,
    label_parts,
    measure_labels,
    property_parts,
    property_rotation_error,
    save_confusion,
)

_ROTATION = ("rotation_error_of_spread", "rotation_error_of_probability", "equivariance_error")


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured on the test part.

    Attributes:
        figures: units in the names.
        seconds: that the predictions took, symmetry included.
        confusion: of labels, by poses.
    """

    figures: dict[str, float]
    seconds: float
    confusion: dict[str, LabelEvaluation]


def publish_measured(run_dir: Path, out: Path, *, command: str) -> dict[str, float]:
    """Measures the best weights of a run and writes `out`/model.safetensors, its card and its settings; of labels the
    confusion matrices too.

    Args:
        run_dir: a folder of `geomol train` with task "property", "labels" or "forecast".
        out: folder of the published model.
        command: how the model was trained, for the card.

    Returns:
        The figures of the test part.

    Raises:
        DataError: the run has no model yet, or its data have no test part. ConfigError: a model of another kind, or
            `out` holds something else.
    """
    config, summary, provenance = read_record(run_dir)
    make_folder(out)
    model = load_model(run_dir / "model.safetensors")
    if not isinstance(model, PropertyModel | LabelModel | Forecaster):
        raise ConfigError("this card is for properties, labels and forecasts", got=type(model).__name__)
    measured = _measure(model, config)
    symmetry = {key: value for key, value in measured.figures.items() if key in _ROTATION}
    errors = {key: value for key, value in measured.figures.items() if key not in symmetry}
    save_model(out / "model.safetensors", model, provenance=provenance, errors=errors, symmetry=symmetry)
    card = task_card(out.name, config, summary, model.symmetry, measured, command)
    (out / "README.md").write_text(card, encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(measured.figures, indent=1) + "\n", encoding="utf-8")
    for poses, evaluation in measured.confusion.items():
        save_confusion(evaluation, out, f"confusion_{poses}")
        save_confusion_figure(evaluation.confusion, evaluation.names, out / f"confusion_{poses}.png")
    copy_records(run_dir, out, ("config.json", "summary.json", "metrics.csv"))
    return measured.figures


def _measure(model: PropertyModel | LabelModel | Forecaster, config: TrainConfig) -> Measured:
    confusion: dict[str, LabelEvaluation] = {}
    if isinstance(model, Forecaster):
        systems = load_nbody(config.data.source).split("test")
        start = time.perf_counter()
        return Measured(evaluate_forecast(model, systems), time.perf_counter() - start, confusion)
    if isinstance(model, LabelModel):
        clouds = _test(label_parts(config)[0], config)
        start = time.perf_counter()
        confusion = evaluate_poses(model, clouds)
        return Measured(measure_labels(model, clouds, confusion), time.perf_counter() - start, confusion)
    part = _test(property_parts(config)[0], config)
    start = time.perf_counter()
    figures, _ = evaluate_properties(model, part.structures, part.values)
    figures["rotation_error_of_spread"] = property_rotation_error(model, part.structures)
    return Measured(figures, time.perf_counter() - start, confusion)


def _test(parts: dict[str, Any], config: TrainConfig) -> Any:
    if "test" not in parts:
        raise DataError("no test part to measure on", where=config.data.source, remedy="set data.num_test")
    return parts["test"]


_USE = {
    "property": "Properties of structures, or of SMILES: `geomol predict {name} smiles:CCO -o table.csv`, in Python\n"
    '`geomol.train.properties_of(geomol.load("{name}"), "CCO")` after `import geomol, geomol.train`.',
    "labels": "Labels of point clouds: `geomol eval {name} {source} --split test`.",
    "forecast": "Where particles will be: `geomol eval {name} {source} --split test`.",
}
_LIMITS = {
    "property": "Not for other elements or charges, or for structures far larger or smaller than those of the data.",
    "labels": "Not for clouds of another kind or scale than those of the data.",
    "forecast": "Not for other numbers of particles, forces or times than those of the data.",
}


def task_card(
    name: str,
    config: TrainConfig,
    summary: dict[str, Any],
    symmetry: Symmetry,
    measured: Measured,
    command: str,
) -> str:
    """The card as Markdown: use, data, training, symmetry, test figures."""
    model = ", ".join(f"{k} = {v}" for k, v in config.model.items())
    size = "" if config.data.num_train is None else f", {config.data.num_train} to learn from"
    turned = f"; shown in random poses of {config.run.rotate_group}" if config.run.rotate else ""
    exact = "exact" if symmetry.exact else "approximate"
    lines = [
        f"# {name}",
        "",
        _USE[config.task].format(name=name, source=config.data.source),
        "",
        "| | |",
        "|---|---|",
        f"| data | `{config.data.source}`, split `{config.data.split}`, seed {config.data.seed}{size} |",
        f"| model | {model}; {summary['num_parameters']} parameters, {config.run.dtype} |",
        *([] if config.run.start is None else [f"| began from | the weights of `{config.run.start}` |"]),
        f"| training | `{command}`; {summary['training_minutes']:.1f} minutes ({config.schedule.clock} time, "
        f"{config.run.threads or 'all'} thread), {summary['epochs']:.1f} epochs, {summary['steps']} steps{turned} |",
        f"| symmetry claimed | {symmetry.group}, {exact} |",
        f"| measuring took | {measured.seconds:.0f} s |",
        "",
        "| on the test part | |",
        "|---|---|",
        *(f"| {key.replace('_', ' ')} | {_number(key, value)} |" for key, value in measured.figures.items()),
        "",
        _LIMITS[config.task],
        "",
    ]
    return "\n".join(lines)


def _number(key: str, value: float) -> str:
    """A count in full, and any other figure to four digits."""
    return f"{value:,.0f}" if key.startswith("num_") else f"{value:.4g}"
