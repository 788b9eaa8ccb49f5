"""The typed configuration of a training run: what a TOML file may say, checked in full before anything is computed."""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from geomol.errors import ConfigError, nearest
from geomol.symmetry import BACKBONES, SYMMETRISERS
from geomol.symmetry.part_networks import PART_NETWORKS
from geomol.symmetry.pose_networks import POSE_NETWORKS
from geomol.train.sections import (
    DataConfig,
    GenerationConfig,
    LabelConfig,
    LossConfig,
    OptimiserConfig,
    PotentialConfig,
    PropertyConfig,
    RemulConfig,
    RunConfig,
    ScheduleConfig,
    Section,
)

READ_BY = {
    "potential": "potential",
    "loss": "potential",
    "generation": "generation",
    "properties": "property",
    "labels": "labels",
}
"""The sections that only one task reads."""


class TrainConfig(Section):
    """A whole run.

    `model` holds the backbone's name and constructor arguments, see `geomol.models`; a symmetriser of `geomol.symmetry`
    holds those of the backbone it wraps under `backbone`. `task`: "potential" (energies and forces), "forecast"
    (later positions of particles), "generation" (molecules out of noise), "property" (numbers and vectors of whole
    structures) or "labels" (classes of point clouds, parts of their points). Settings that a task has no use for are
    refused.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    task: Literal["potential", "forecast", "generation", "property", "labels"] = "potential"
    data: DataConfig
    model: dict[str, Any]
    potential: PotentialConfig = PotentialConfig()
    loss: LossConfig = LossConfig()
    remul: RemulConfig = RemulConfig()
    generation: GenerationConfig = GenerationConfig()
    properties: PropertyConfig = PropertyConfig()
    labels: LabelConfig = LabelConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _known_model(self) -> TrainConfig:
        faults = model_faults(self.model, "model")
        faults += _idle_settings(self)
        if self.run.rotate and self.remul.weight > 0:
            faults.append("run.rotate and remul.weight both turn the data; set run.rotate = false")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def run_dir(self) -> Path:
        return Path(self.run.folder) / self.name


def _idle_settings(config: TrainConfig) -> list[str]:
    """Settings that the task has no use for and that are not left as they are by default."""
    others = (key for key, task in READ_BY.items() if task != config.task)
    unused = {key: (given := getattr(config, key)) != type(given)() for key in others}
    if config.task not in ("generation", "potential"):
        unused["run.compile"] = config.run.compile
    if config.task == "property" and not config.properties.targets:
        return ["properties.targets: missing, name the columns to be learned"]
    if config.task == "labels" and config.run.rotate:
        return ["run.rotate: clouds are turned as labels.rotation says; set run.rotate = false"]
    if config.task in ("forecast", "labels"):
        kept = ("source", "num_train") if config.task == "forecast" else ("source", "num_train", "num_valid", "seed")
        plain = DataConfig(**{key: getattr(config.data, key) for key in kept})
        unused |= {f"data.{key}": getattr(config.data, key) != getattr(plain, key) for key in DataConfig.model_fields}
    return [f'{key}: of no use in task = "{config.task}", leave it out' for key, given in unused.items() if given]


def model_faults(model: dict[str, Any], key: str) -> list[str]:
    """What is wrong with the settings of a backbone, of the backbone inside it and of its pose or part network."""
    name = model.get("name")
    if name is None:
        return [f"{key}.name: missing, give one of {', '.join(BACKBONES)}"]
    faults = _unknown_keys(model, key, BACKBONES)
    if faults is None:
        return [f'{key}.name: unknown model "{name}"; {nearest(str(name), BACKBONES)}']
    if isinstance(pose := model.get("pose"), dict):
        faults += _network_faults(pose, f"{key}.pose", POSE_NETWORKS, "pose network")
    if isinstance(parts := model.get("parts"), dict):
        faults += _network_faults(parts, f"{key}.parts", PART_NETWORKS, "part network")
        if parts.get("name") == "learned" and not isinstance(parts.get("backbone"), dict):
            faults.append(f"{key}.parts.backbone: parts are learned by another model, give its settings")
        elif isinstance(whole := parts.get("backbone"), dict):
            faults += model_faults(whole, f"{key}.parts.backbone")
    if name in SYMMETRISERS:
        inner = model.get("backbone")
        if not isinstance(inner, dict):
            return [*faults, f'{key}.backbone: "{name}" wraps another model, give its settings']
        faults += model_faults(inner, f"{key}.backbone")
    return faults


def _network_faults(settings: dict[str, Any], key: str, classes: Mapping[str, type], what: str) -> list[str]:
    """What is wrong with the settings of a network inside a symmetriser, that of its poses or parts."""
    name = str(settings.get("name"))
    found = _unknown_keys(settings, key, classes)
    return [f'{key}.name: unknown {what} "{name}"; {nearest(name, classes)}'] if found is None else found


def _unknown_keys(settings: dict[str, Any], key: str, classes: Mapping[str, type]) -> list[str] | None:
    """Keys that the constructor of the named class does not take; None for a name that is not among the classes."""
    name = settings.get("name")
    if not isinstance(name, str) or name not in classes:
        return None
    known = ["name", *inspect.signature(classes[name]).parameters]
    return [f"{key}.{word}: unknown key; {nearest(word, known)}" for word in settings if word not in known]


_LENGTHS = ("schedule.epochs", "schedule.minutes")  # of a training; there is one


def load_config(path: str | Path, overrides: Sequence[str] = (), *, drop: Sequence[str] = ()) -> TrainConfig:
    """Reads a TOML file (or the config.json of a run) and applies `key.sub=value` overrides.

    Override values are in TOML syntax; bare words are strings. `schedule.epochs` and `schedule.minutes` replace each
    other. Keys in `drop` are taken out of the file before.

    Raises:
        ConfigError: the file is missing or not TOML, or any keys or values are wrong; all faults are listed at once.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError("configuration file does not exist", where=str(path)) from None
    except ValueError as error:
        raise ConfigError(
            f"not a {'JSON' if path.suffix == '.json' else 'TOML'} file", where=str(path), got=str(error)
        ) from error
    if any(override.partition("=")[0].strip() in _LENGTHS for override in overrides):
        drop = (*drop, *_LENGTHS)
    for key in drop:
        section, _, last = key.rpartition(".")
        if isinstance(holder := raw.get(section), dict):
            holder.pop(last, None)
    for override in overrides:
        apply_override(raw, override)
    return parse_config(raw, where=str(path))


def parse_config(raw: dict[str, Any], *, where: str | None = None) -> TrainConfig:
    """Validates a configuration given as nested dictionaries; all faults are listed in one ConfigError."""
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        faults = "; ".join(_describe(fault) for fault in error.errors())
        raise ConfigError(f"configuration: {faults}", where=where) from None


def _describe(fault: Any) -> str:
    """One validation fault in words; an unknown key comes with the nearest known one."""
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        section: type[BaseModel] = TrainConfig
        for part in fault["loc"][:-1]:
            section = section.model_fields[str(part)].annotation  # type: ignore[assignment]
        return f"{key}: unknown key; {nearest(str(fault['loc'][-1]), section.model_fields)}"
    got = "" if fault["type"] == "missing" else f", got {fault['input']!r}"
    message = fault["msg"].removeprefix("Value error, ")
    return (
        f"{key}: {message}{got}" if key and not isinstance(fault["input"], dict) else f"{key}: {message}".lstrip(": ")
    )


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets what `key.sub=value` says in nested dictionaries.

    Raises:
        ConfigError: it is not of that form, or `key` holds a value already.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError("an override is written key=value", got=override)
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"override {override}: {parent} is a value, not a section")
    raw[last] = value
