"""The same data, trainer and budget for every way of having a symmetry: what each costs and what each gains."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geomol.checkpoint import load_model
from geomol.data import load_nbody
from geomol.errors import ConfigError
from geomol.forecast import Forecaster
from geomol.potential import Potential
from geomol.report import measure_cost, measure_symmetry
from geomol.study.published import published_figure
from geomol.train import Progress, TrainConfig, evaluate, evaluate_forecast, load_config, load_splits, train

Budget = dict[str, object]


@dataclass(frozen=True)
class Entry:
    """One configuration, trained once for each seed.

    Attributes:
        name: of the configuration.
        model: the backbone, with what wraps it: "canonical(mpnn)".
        symmetry: what the model claims; "≈" where only nearly, "E[…]" where on average over random poses.
        training: how training used the symmetry: "", "turned data", or "REMUL".
        parameters: trained numbers.
        step_ms: milliseconds of training per optimiser step, on this machine.
        minutes, epochs: of training, mean over seeds.
        figures: test figures of each seed, units in the names.
        published: the published value of the first figure, if any.
    """

    name: str
    model: str
    symmetry: str
    training: str
    parameters: int
    step_ms: float
    minutes: float
    epochs: float
    figures: list[dict[str, float]]
    published: float | None

    def mean(self, key: str) -> float:
        """Mean of a figure over the seeds; NaN where it was not measured."""
        values = [figures[key] for figures in self.figures if key in figures]
        return statistics.fmean(values) if values else float("nan")

    def spread(self, key: str) -> float | None:
        """Standard deviation over seeds; None for a single seed."""
        values = [figures[key] for figures in self.figures if key in figures]
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """All entries, best first by `score`, with what was common to them."""

    task: str
    data: str
    score: str
    seeds: list[int]
    budget: str
    entries: list[Entry]

    def figures(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def read_configs(paths: Sequence[Path]) -> list[Path]:
    """Configuration files in the order given; a folder stands for the TOML files in it.

    Raises:
        ConfigError: nothing there.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.toml")) if path.is_dir() else [path])]
    if not files:
        raise ConfigError("no configurations to compare", where=", ".join(map(str, paths)))
    return files


def compare(
    files: Sequence[Path],
    *,
    overrides: Sequence[str] = (),
    budget: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    on_progress: Callable[[str, Progress], None] | None = None,
) -> Comparison:
    """Trains every configuration with every seed (finished runs are only evaluated) and measures them on the test part.

    Args:
        files: configurations of one task and data set.
        overrides: `key=value`, for all.
        budget: `schedule.…=…` in place of the schedule's own length, for all.
        seeds: of weights, data order and random poses. Seed 0 keeps the name of the run, others append it.
        on_progress: called during training with the name of the run.

    Raises:
        ConfigError: different tasks or data sets in one comparison.
    """
    configs = [[_config(file, overrides, budget, seed) for seed in seeds] for file in files]
    first = configs[0][0]
    for config in (c for row in configs for c in row):
        if (config.task, config.data.source) != (first.task, first.data.source):
            raise ConfigError(
                "only runs on the same data can be compared",
                expected=f"{first.task} on {first.data.source}",
                got=f"{config.name}: {config.task} on {config.data.source}",
            )
    entries = [_entry(row, on_progress) for row in configs]
    score = "position_mse" if first.task == "forecast" else "force_mae_eV_per_A"
    entries.sort(key=lambda entry: entry.mean(score))
    lengths = {_length(row[0]) for row in configs}
    text = lengths.pop() if len(lengths) == 1 else "as in each configuration"
    return Comparison(first.task, first.data.source, score, list(seeds), text, entries)


def _config(file: Path, overrides: Sequence[str], budget: Sequence[str], seed: int) -> TrainConfig:
    config = load_config(file, overrides)
    words = [*overrides, f"run.seed={seed}", *([f"name={config.name}-seed{seed}"] if seed else [])]
    return load_config(file, [*words, *budget], drop=("schedule.minutes", "schedule.epochs") if budget else ())


def _length(config: TrainConfig) -> str:
    schedule = config.schedule
    if schedule.minutes is not None:
        return f"{schedule.minutes:g} minutes of {schedule.clock} time"
    return f"{schedule.epochs} epochs"


def _entry(configs: list[TrainConfig], on_progress: Callable[[str, Progress], None] | None) -> Entry:
    steps, seconds, epochs, figures = 0, 0.0, [], []
    for config in configs:
        name = config.name

        def show(progress: Progress, name: str = name) -> None:
            if on_progress is not None:
                on_progress(name, progress)

        result = train(config, on_progress=show)
        steps, seconds = steps + result.steps, seconds + result.elapsed_s
        model = load_model(result.run_dir / "model.safetensors")
        figures.append(_measure(model, config))
        epochs.append(result.epochs)
    config = configs[0]
    return Entry(
        name=config.name,
        model=_model_name(config.model),
        symmetry=_claim(model),
        training="REMUL" if config.remul.weight > 0 else "turned data" if config.run.rotate else "",
        parameters=sum(p.numel() for p in model.parameters()),
        step_ms=1e3 * seconds / max(1, steps),
        minutes=seconds / 60 / len(configs),
        epochs=statistics.fmean(epochs),
        figures=figures,
        published=published_figure(config.name),
    )


def _measure(model: Potential | Forecaster, config: TrainConfig) -> dict[str, float]:
    if isinstance(model, Forecaster):
        return evaluate_forecast(model, load_nbody(config.data.source), "test")
    _, parts = load_splits(config.data)
    errors = evaluate(model, parts["test"]).metrics
    return {**errors, **measure_symmetry(model, parts["test"]), **measure_cost(model, parts["test"])}


def _model_name(model: dict[str, Any]) -> str:
    inner = model.get("backbone")
    return f"{model['name']}({_model_name(inner)})" if isinstance(inner, dict) else str(model["name"])


def _claim(model: Potential | Forecaster) -> str:
    claimed = model.symmetry
    if claimed.stochastic:
        return f"E[{claimed.group}]"
    return claimed.group if claimed.exact else f"≈{claimed.group}"
