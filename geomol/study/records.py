"""What is kept of a finished run of a study, with the settings that it was made with."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geomol.checkpoint.atomic import write_atomically
from geomol.errors import ConfigError, ResumeError
from geomol.generate.sampling import SampleSettings
from geomol.study.grid import Cell
from geomol.train import parse_config
from geomol.train.run import config_differences

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellResult:
    """A finished run of the grid.

    Attributes:
        choices, seed: which.
        figures: test figures, units in the names; empty where training diverged.
        minutes, epochs, parameters: of training.
    """

    choices: dict[str, str]
    seed: int
    figures: dict[str, float]
    minutes: float
    epochs: float
    parameters: int


def settings_of(cell: Cell, molecules: int, sampling: SampleSettings) -> dict[str, Any]:
    """All that the result of a cell follows from, as JSON keeps it."""
    made: dict[str, Any] = {"train": cell.run.model_dump(mode="json")}
    if cell.run.task == "generation":
        made["sample"] = {"molecules": molecules, **asdict(sampling)}
    return made


def write_record(record: Path, result: CellResult, settings: Mapping[str, Any]) -> None:
    """Keeps a result."""
    write_atomically(record, json.dumps({**asdict(result), "settings": settings}, indent=1).encode())


def read_record(record: Path, cell: Cell, settings: dict[str, Any]) -> CellResult:
    """The result of an earlier call. Those kept before settings were are taken as they are, with a warning.

    Raises:
        ResumeError: the file is damaged, or the run was made with other settings than it has now.
    """
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        before = kept.pop("settings", None)
        result = CellResult(**kept)
        if result.choices != cell.choices or result.seed != cell.seed:
            raise ValueError(f"it is of {result.choices}, seed {result.seed}")
        changed = {} if before is None else config_differences(_named(before), _named(settings))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ResumeError(
            "the record of a run cannot be read", where=str(record), got=str(error), remedy="delete it to measure anew"
        ) from error
    if before is None:
        _log.warning("%s: kept without its settings, so that nobody knows whether they are still the same", record)
    if changed:
        listing = ", ".join(f"{key}: {old!r} → {new!r}" for key, (old, new) in changed.items())
        raise ResumeError(
            f"this run was made with other settings ({listing})",
            where=str(record),
            remedy="put them back, give the study another name, or delete the record and the folder of the run",
        )
    return result


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under the names that training has for them, so that the same ones are free to change; those that geomol
    did not have then are at their defaults.
    """
    train = settings["train"]
    with suppress(ConfigError):  # from another version of geomol: compared as it stands
        train = parse_config(train).model_dump(mode="json")
    return {**train, "sample": settings.get("sample", {})}
