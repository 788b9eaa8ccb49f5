"""A study as data: axes of choices, the cells of their grid, and how long each may take."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geomol.errors import ConfigError
from geomol.train import TrainConfig, load_config
from geomol.train.config import apply_override
from geomol.train.run import flatten

# what every cell is given by the study; `run.stop_after_minutes` would leave runs unfinished that are then compared
_OWN_KEYS = frozenset({"name", "run.seed", "run.folder", "run.tensorboard", "run.stop_after_minutes"})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Axis(_Section):
    """One question: a name, and its answers, each a list of `key=value` changes to the base configuration.

    Attributes:
        name: of the axis, such as "variant" or "training set".
        choices: changes by the name of the choice; `base=FILE` takes another configuration file altogether.
        numeric: the names are numbers (a size); the study draws curves along such an axis and fits power laws.
    """

    name: str = Field(min_length=1)
    choices: dict[str, list[str]] = Field(min_length=1)
    numeric: bool = False

    @model_validator(mode="after")
    def _numbers(self) -> Axis:
        if self.numeric:
            for choice in self.choices:
                try:
                    finite = math.isfinite(float(choice))
                except ValueError:
                    finite = False
                if not finite:
                    raise ValueError(f'axis "{self.name}" is numeric, but "{choice}" is no number')
        return self


class StudyConfig(_Section):
    """A whole study; see `examples/studies/`.

    Attributes:
        name: of the study; its runs lie in `runs/<name>`.
        base: configuration file, relative to the study's own.
        budget: `schedule.…` or other changes for all cells.
        seeds: repetitions of every cell.
        axis: the axes of the grid.
        skip: combinations that are left out, each a mapping from axis to choice.
        question: what the study asks, for the head of its results.
    """

    name: str = Field(pattern=r"^\.*[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    base: str
    budget: list[str] = []
    seeds: list[int] = Field([0], min_length=1)
    axis: list[Axis] = Field(min_length=1)
    skip: list[dict[str, str]] = []
    question: str = ""

    @model_validator(mode="after")
    def _known(self) -> StudyConfig:
        names = [axis.name for axis in self.axis]
        if len(set(names)) < len(names):
            raise ValueError("two axes of one name")
        choices = {axis.name: set(axis.choices) for axis in self.axis}
        for combination in self.skip:
            for axis, choice in combination.items():
                if choice not in choices.get(axis, set()):
                    raise ValueError(f'skip: there is no choice "{choice}" on an axis "{axis}"')
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is named twice")
        return self

    @model_validator(mode="after")
    def _effective(self) -> StudyConfig:
        """What the study sets itself, or its budget for all cells, a choice would set without any effect."""
        budget = {key for change in self.budget for key in _keys_of(change)}
        if idle := budget & _OWN_KEYS:
            raise ValueError(f"budget: {', '.join(sorted(idle))}: set by the study itself")
        for axis in self.axis:
            for choice, changes in axis.choices.items():
                keys = {key for change in changes if not change.startswith("base=") for key in _keys_of(change)}
                for idle, by in ((keys & _OWN_KEYS, "the study itself"), (keys & budget, "its budget for all cells")):
                    if idle:
                        raise ValueError(f'axis "{axis.name}", "{choice}": {", ".join(sorted(idle))}: set by {by}')
        return self


def _keys_of(change: str) -> list[str]:
    """The dotted keys that a change sets; those in an inline table one by one."""
    changed: dict[str, object] = {}
    apply_override(changed, change)
    return list(flatten(changed))


class Cell(_Section):
    """One combination of choices with one seed, as a run."""

    choices: dict[str, str]
    seed: int
    run: TrainConfig


def load_study(path: str | Path) -> StudyConfig:
    """Reads a TOML file.

    Raises:
        ConfigError: missing, not TOML, or wrong; all faults are listed at once.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        return StudyConfig.model_validate(raw)
    except FileNotFoundError:
        raise ConfigError("study file does not exist", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("not a TOML file", where=str(path), got=str(error)) from error
    except ValidationError as error:
        raise ConfigError(f"study: {faults_text(error)}", where=str(path)) from None


def faults_text(error: ValidationError) -> str:
    """All faults that pydantic found, in a line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}".lstrip(": ")
        for fault in error.errors()
    )


def cells(study: StudyConfig, base: Path, *, folder: str = "runs") -> list[Cell]:
    """All runs of the grid, checked before anything is trained.

    `run.stop_after_minutes` of a base configuration does not apply: only finished runs can be compared.

    Args:
        study: the study.
        base: folder that `study.base` is relative to.
        folder: runs go into `<folder>/<study name>`.

    Raises:
        ConfigError: a change that the base configuration does not take, with the cell it belongs to.
    """
    found = []
    names = [axis.name for axis in study.axis]
    for combination in itertools.product(*(axis.choices for axis in study.axis)):
        chosen = dict(zip(names, combination, strict=True))
        if any(all(chosen[axis] == choice for axis, choice in skipped.items()) for skipped in study.skip):
            continue
        changes = [change for axis in study.axis for change in axis.choices[chosen[axis.name]]]
        for seed in study.seeds:
            name = "-".join([*(slug(choice) for choice in combination), f"seed{seed}"])
            settings = [
                f"name={name}",
                f"run.seed={seed}",
                f"run.folder={folder}/{study.name}",
                "run.tensorboard=false",
            ]
            try:
                file = next((c.removeprefix("base=") for c in reversed(changes) if c.startswith("base=")), study.base)
                own = [change for change in changes if not change.startswith("base=")]
                run = load_config(base / file, [*own, *study.budget, *settings], drop=["run.stop_after_minutes"])
            except ConfigError as error:
                raise ConfigError(f"cell {name}: {error}", where=study.name) from error
            found.append(Cell(choices=chosen, seed=seed, run=run))
    if len({cell.run.name for cell in found}) < len(found):
        raise ConfigError("two cells have one name", where=study.name, remedy="name the choices apart")
    if not found:
        raise ConfigError("nothing is left of the grid", where=study.name, remedy="skip less")
    return found


def slug(text: str) -> str:
    """A choice as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_").lower() or "none"
