"""The same data, trainer and budget for every way of having a symmetry: what each costs and what each gains."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from geomol.checkpoint import Model, load_model
from geomol.errors import ConfigError, TrainingDivergedError
from geomol.generate.sampling import SampleSettings
from geomol.study.measure import higher_is_better, measure, score_key, test_part_of
from geomol.study.published import published_figure
from geomol.train import (
    Progress,
    TrainConfig,
    load_config,
    train,
)
from geomol.train.prepare import prepare

DEFAULT_SAMPLING = SampleSettings()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One configuration, trained once for each seed.

    Attributes:
        name: of the configuration.
        model: the backbone, with what wraps it: "canonical(mpnn)".
        symmetry: what the model claims; "≈" where only nearly, "E[…]" where on average over random poses.
        training: how training used a symmetry: "", "turned in SO(3)", "REMUL O(3)", ….
        parameters: trained numbers.
        step_ms: milliseconds of training per optimiser step, validation included, on this machine.
        minutes, epochs: of training, mean over seeds.
        figures: test figures of each seed that finished, units in the names.
        diverged: how many seeds did not finish, because the loss became infinite.
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
    diverged: int
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
    """All entries, best first by `score` (what diverged comes last), with what was common to them."""

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
    molecules: int = 1000,
    sampling: SampleSettings = DEFAULT_SAMPLING,
    on_progress: Callable[[str, Progress], None] | None = None,
) -> Comparison:
    """Trains every configuration with every seed (finished runs are only evaluated) and measures them on the test part.

    `run.stop_after_minutes` does not apply: only finished runs can be compared. A run that diverges has no figures and
    does not keep the others from theirs.

    Args:
        files: configurations of one task and data set.
        overrides: `key=value`, for all.
        budget: `schedule.…=…` in place of the schedule's own length, for all.
        seeds: of weights, data order, random poses and turns. Seed 0 keeps the name of the run, others append it.
        molecules: how many are sampled from each generator.
        sampling: how.
        on_progress: called during training with the name of the run.

    Raises:
        ConfigError: different tasks or data in one comparison, no test part, or two runs of one name.
    """
    configs = [[_config(file, overrides, budget, seed) for seed in seeds] for file in files]
    first = configs[0][0]
    _check_comparable([config for row in configs for config in row])
    test = test_part_of(first)
    judge = partial(measure, test=test, molecules=molecules, sampling=sampling)
    entries = [_entry(row, judge, on_progress) for row in configs]
    score = score_key(first.task, {key for entry in entries for figures in entry.figures for key in figures})
    sign = -1 if higher_is_better(first.task) else 1
    entries.sort(key=lambda entry: (not entry.figures, sign * entry.mean(score)))
    lengths = {_length(row[0]) for row in configs}
    text = lengths.pop() if len(lengths) == 1 else "as in each configuration"
    return Comparison(first.task, first.data.source, score, list(seeds), text, entries)


def _config(file: Path, overrides: Sequence[str], budget: Sequence[str], seed: int) -> TrainConfig:
    name = load_config(file, overrides).name
    words = [*overrides, f"run.seed={seed}", *([f"name={name}-seed{seed}"] if seed else [])]
    config = load_config(file, [*words, *budget])
    return config.model_copy(update={"run": config.run.model_copy(update={"stop_after_minutes": None})})


def _check_comparable(configs: Sequence[TrainConfig]) -> None:
    first = configs[0]
    seen: set[Path] = set()
    for config in configs:
        if (config.task, config.data) != (first.task, first.data):
            raise ConfigError(
                "only runs on the same data can be compared",
                expected=f"as {first.name}: {_data_text(first)}",
                got=f"{config.name}: {_data_text(config)}",
            )
        if config.run_dir in seen:
            raise ConfigError("two runs of one name in a comparison", where=str(config.run_dir), got=config.name)
        seen.add(config.run_dir)


def _data_text(config: TrainConfig) -> str:
    """Task and data settings that are not at their defaults."""
    given = config.data.model_dump(exclude_defaults=True, exclude={"source"})
    return " ".join([config.task, "on", config.data.source, *(f"{key}={value}" for key, value in given.items())])


def _length(config: TrainConfig) -> str:
    schedule = config.schedule
    if schedule.minutes is not None:
        return f"{schedule.minutes:g} minutes of {schedule.clock} time"
    return f"{schedule.epochs} epochs"


def _entry(
    configs: list[TrainConfig],
    measure: Callable[[Model], dict[str, float]],
    on_progress: Callable[[str, Progress], None] | None,
) -> Entry:
    results, figures = [], []
    model: Model | None = None
    for config in configs:
        show = None if on_progress is None else partial(on_progress, config.name)
        try:
            result = train(config, on_progress=show)
        except TrainingDivergedError as error:
            _log.warning("%s: %s", config.name, error)
            continue
        results.append(result)
        model = load_model(result.run_dir / "model.safetensors")
        figures.append(measure(model))
    config = configs[0]
    model = model or prepare(config).model
    steps, seconds = sum(r.steps for r in results), sum(r.elapsed_s for r in results)
    return Entry(
        name=config.name,
        model=_model_name(config.model),
        symmetry=_claim(model),
        training=_training(config),
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        step_ms=1e3 * seconds / max(1, steps),
        minutes=seconds / 60 / max(1, len(results)),
        epochs=sum(r.epochs for r in results) / max(1, len(results)),
        figures=figures,
        diverged=len(configs) - len(results),
        published=published_figure(config.name, config.data.source),
    )


def _model_name(model: dict[str, Any]) -> str:
    inner = model.get("backbone")
    return f"{model['name']}({_model_name(inner)})" if isinstance(inner, dict) else str(model["name"])


def _claim(model: Model) -> str:
    claimed = model.symmetry
    if claimed.stochastic:
        return f"E[{claimed.group}]"
    return claimed.group if claimed.exact else f"≈{claimed.group}"


def _training(config: TrainConfig) -> str:
    if config.task == "labels" and config.labels.rotation != "none":
        return f"turned {'about z' if config.labels.rotation == 'z' else 'in SO(3)'}"
    if config.remul.weight > 0:
        return f"REMUL {config.remul.group}"
    return f"turned in {config.run.rotate_group}" if config.run.rotate else ""
