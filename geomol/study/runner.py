"""Running a study: every cell trained once, whenever it is interrupted, and measured alike."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

from geomol.checkpoint import load_model, read_manifest
from geomol.errors import BusyError, ResumeError, TrainingDivergedError
from geomol.generate.sampling import SampleSettings
from geomol.study.columns import Columns, columns_for
from geomol.study.grid import Cell, StudyConfig
from geomol.study.measure import TestPart, higher_is_better, measure, score_key, test_part_of
from geomol.study.record import CellRecord, CellResult, check_same_data, kept_results
from geomol.train import Progress, TrainConfig, train
from geomol.train.lock import only_process

POLL_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyResult:
    """All cells of a study, with the figure that decides."""

    name: str
    question: str
    task: str
    score: str
    axes: dict[str, list[str]]
    numeric: tuple[str, ...]
    cells: list[CellResult]

    @property
    def sign(self) -> int:
        """1 where a low score is good, −1 where a high one is."""
        return -1 if higher_is_better(self.task) else 1

    @property
    def columns(self) -> Columns:
        """What is shown beside the score."""
        return columns_for(self.score, {key for cell in self.cells for key in cell.figures})

    def values(self, key: str, choices: Mapping[str, str]) -> list[float]:
        """A figure of all runs with these choices that have it."""
        return [
            cell.figures[key]
            for cell in self.cells
            if key in cell.figures and all(cell.choices[axis] == choice for axis, choice in choices.items())
        ]

    def scores(self, choices: Mapping[str, str]) -> list[float]:
        """Scores of all runs with these choices."""
        return self.values(self.score, choices)

    def combinations(self) -> list[dict[str, str]]:
        """The combinations that were run, best first; what diverged comes last."""
        unique = list({tuple(cell.choices.items()): cell.choices for cell in self.cells}.values())
        return sorted(unique, key=lambda c: self.sign * mean(self.scores(c)) if self.scores(c) else float("inf"))

    def figures(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return asdict(self)


def mean(values: Sequence[float]) -> float:
    """Mean; NaN of nothing."""
    return statistics.fmean(values) if values else float("nan")


def spread(values: Sequence[float]) -> float:
    """Standard deviation over runs; NaN of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def run_study(
    study: StudyConfig,
    grid: Sequence[Cell],
    folder: Path,
    *,
    molecules: int = 500,
    sampling: SampleSettings | None = None,
    on_progress: Callable[[int, str, Progress], None] | None = None,
    on_result: Callable[[int, str, CellResult], None] | None = None,
    on_wait: Callable[[int], None] | None = None,
) -> StudyResult:
    """Trains and measures what is not yet done; each measured cell is kept, so that a repetition costs nothing.

    Several processes may run one study at the same time: each takes the next cell that no other one has, and all wait
    for the last. Not on Windows, where nothing tells them of each other.

    Args:
        study: the study.
        grid: its cells.
        folder: where `cells/*.json` are kept.
        molecules: sampled from each generator.
        sampling: how.
        on_progress: called during training with the number of finished cells and the name of the run.
        on_result: called when a run has been trained and measured here, with the number of finished cells and its name.
        on_wait: called when nothing is left to do here, with the number of cells that other processes have.

    Raises:
        ResumeError: a cell was made with other settings, or what is kept of it is damaged; of finished cells this is
            found before anything is trained. Or cells were trained on different data under one name; that data have
            changed since all of them were finished is not seen.
    """
    sampling = sampling or SampleSettings()
    parts = lru_cache(maxsize=2)(partial(_test_part, {cell.run.data.model_dump_json(): cell.run for cell in grid}))
    records = {cell.run.name: CellRecord(folder / "cells", cell, molecules, sampling) for cell in grid}
    found = kept_results(records)
    told = len(grid) + 1  # for how many cells somebody knows that this process waits
    while len(found) < len(grid):
        before = len(found)
        for cell in grid:
            name, record = cell.run.name, records[cell.run.name]
            if name in found:
                continue
            with ExitStack() as stack:
                try:
                    stack.enter_context(only_process(record.folder, f".{name}.lock"))
                except BusyError:
                    continue
                if record.path.is_file():
                    found[name] = record.read()[0]
                    continue
                show = None if on_progress is None else partial(on_progress, len(found), name)
                test = parts(cell.run.data.model_dump_json())
                found[name] = _run(cell, test, molecules, sampling, show)
                record.write(found[name])
            if on_result is not None:
                on_result(len(found), name, found[name])
        if len(found) == before:
            left = len(grid) - len(found)
            if on_wait is not None and left < told:
                on_wait(told := left)
            time.sleep(POLL_S)  # what is left is with other processes; of one that dies the cell is taken over
    check_same_data(records, found)
    task, results = grid[0].run.task, [found[cell.run.name] for cell in grid]
    measured = {key for cell in results for key in cell.figures}
    axes = {axis.name: list(axis.choices) for axis in study.axis}
    numeric = tuple(axis.name for axis in study.axis if axis.numeric)
    return StudyResult(study.name, study.question, task, score_key(task, measured), axes, numeric, results)


def _test_part(runs: Mapping[str, TrainConfig], data: str) -> TestPart:
    return test_part_of(runs[data])


def _run(
    cell: Cell,
    test: TestPart,
    molecules: int,
    sampling: SampleSettings,
    on_progress: Callable[[Progress], None] | None,
) -> CellResult:
    try:
        result = train(cell.run, on_progress=on_progress)
    except TrainingDivergedError as error:
        _log.warning("%s: %s", cell.run.name, error)
        return CellResult(cell.choices, cell.seed, {}, 0.0, 0.0, 0)
    except BusyError:
        raise
    except ResumeError as error:  # its remedies are options of `geomol train`
        raise ResumeError(
            f"cell {cell.run.name}: {error.what}",
            where=error.where,
            expected=error.expected,
            got=error.got,
            remedy="put back what changed, give the study another name, "
            f"or remove {cell.run.run_dir} to train the cell anew",
        ) from error
    path = result.run_dir / "model.safetensors"
    model, data = load_model(path), str(read_manifest(path)["provenance"]["data_sha256"])
    figures = measure(model, test, molecules, sampling)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return CellResult(cell.choices, cell.seed, figures, result.elapsed_s / 60, result.epochs, parameters, data)
