"""What is kept of a finished cell: its figures, and the settings that they were made with."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from geomol.checkpoint.atomic import write_atomically
from geomol.errors import GeomolWarning, ResumeError
from geomol.generate.sampling import SampleSettings
from geomol.study.grid import Cell, faults_text
from geomol.train.run import changes_text, completed_settings, config_differences, plain_settings

_FREE_SAMPLING = ("batch_size", "frames")  # settings that do not change which molecules are sampled


@dataclass(frozen=True)
class CellResult:
    """A finished run of the grid.

    Attributes:
        choices, seed: which.
        figures: test figures, units in the names; empty where training diverged.
        minutes, epochs, parameters: of training.
        data_sha256: of what it was trained on; empty where that is not known.
    """

    choices: dict[str, str]
    seed: int
    figures: dict[str, float]
    minutes: float
    epochs: float
    parameters: int
    data_sha256: str = ""


class _Settings(BaseModel):
    """What figures depend on: the settings of the run and, of a generator, how it was sampled from."""

    model_config = ConfigDict(strict=True)

    run: dict[str, Any]
    measuring: dict[str, Any]


class _Content(BaseModel):
    """A file as it is read. Choices and seed are those of the cell that it belongs to; integers stay what they are."""

    model_config = ConfigDict(strict=True)

    figures: dict[str, int | float]
    minutes: int | float
    epochs: int | float
    parameters: int
    data_sha256: str = ""
    settings: _Settings | None = None  # missing in files of earlier versions of geomol


@dataclass(frozen=True)
class CellRecord:
    """The file of a cell.

    Attributes:
        folder: where it is.
        cell: whose.
        molecules: sampled from each generator.
        sampling: how.
    """

    folder: Path
    cell: Cell
    molecules: int
    sampling: SampleSettings

    @property
    def path(self) -> Path:
        return self.folder / f"{self.cell.run.name}.json"

    def write(self, result: CellResult) -> None:
        """Keeps a result.

        Raises:
            OutputError: it cannot be written.
        """
        content = {**asdict(result), "settings": self._settings().model_dump()}
        write_atomically(self.path, json.dumps(content, indent=1).encode())

    def read(self) -> tuple[CellResult, bool]:
        """The result, and whether its settings were kept, so that they could be compared.

        Raises:
            ResumeError: the file is damaged, or was made with other settings.
        """
        content = self._content()
        if content.settings is not None:
            self._compare(content.settings)
        figures: dict[str, float] = {**content.figures}
        cell, training = self.cell, (content.minutes, content.epochs, content.parameters, content.data_sha256)
        return CellResult(cell.choices, cell.seed, figures, *training), content.settings is not None

    def _settings(self) -> _Settings:
        measuring: dict[str, Any] = {}
        if self.cell.run.task == "generation":  # nothing else is sampled from
            sampling = {key: value for key, value in asdict(self.sampling).items() if key not in _FREE_SAMPLING}
            measuring = {"molecules": self.molecules, "sampling": sampling}
        return _Settings(run=plain_settings(self.cell.run), measuring=measuring)

    def _content(self) -> _Content:
        try:
            return _Content.model_validate(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ResumeError(
                "the record of a cell cannot be read",
                where=str(self.path),
                got=faults_text(error) if isinstance(error, ValidationError) else str(error),
                remedy="remove this file: a run that is still there is measured again, not trained",
            ) from error

    def _compare(self, old: _Settings) -> None:
        new, run = self._settings(), self.cell.run
        trained = config_differences(completed_settings(old.run), new.run)
        measured = config_differences(old.measuring, new.measuring)
        if trained or measured:
            made = f"{self.path} and {run.run_dir}" if trained else str(self.path)
            raise ResumeError(
                f"cell {run.name} was made with other settings ({changes_text(trained | measured)})",
                where=str(self.path),
                remedy=f"put them back, give the study another name and folder, or remove {made} to make it anew",
            )


def kept_results(records: Mapping[str, CellRecord]) -> dict[str, CellResult]:
    """The results that there are. A warning says how many of them are too old for their settings to be compared.

    Raises:
        ResumeError: a file is damaged, or was made with other settings.
    """
    found = {name: record.read() for name, record in records.items() if record.path.is_file()}
    unknown = [records[name].folder for name, (_, compared) in found.items() if not compared]
    if unknown:
        warnings.warn(
            f"{unknown[0]}: {len(unknown)} of {len(found)} finished cells were kept by an earlier version of "
            "geomol, without their settings: whether these have changed since could not be checked",
            GeomolWarning,
            stacklevel=3,
        )
    return {name: result for name, (result, _) in found.items()}


def check_same_data(records: Mapping[str, CellRecord], results: Mapping[str, CellResult]) -> None:
    """Cells of the same data settings were trained on the same data.

    Raises:
        ResumeError: a file was replaced under its name between two of them.
    """
    first: dict[str, str] = {}
    for name, result in results.items():
        settings = records[name].cell.run.data.model_dump_json()
        other = first.setdefault(settings, name) if result.data_sha256 else name
        if results[other].data_sha256 != result.data_sha256:
            raise ResumeError(
                f"cells {other} and {name} were trained on different data",
                where=records[name].cell.run.data.source,
                remedy="put the old data back, or give the study another name and folder, to make all cells anew",
            )
