"""The folder of a training run: its configuration, logs, saved states and best model."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from geomol.checkpoint import load_state, save_model, save_state
from geomol.errors import ConfigError, OutputError, ResumeError
from geomol.train.config import TrainConfig, parse_config
from geomol.train.log import CsvLog, TensorBoardLog
from geomol.train.prepare import prepare
from geomol.train.start import start_from
from geomol.train.trainer import Trainer

COLUMNS = ("step", "epoch", "lr", "train_loss")  # before those of the task
RUN_FILES = (
    "state.safetensors",
    "state.prev.safetensors",
    "model.safetensors",
    "metrics.csv",
    "timing.csv",
    "summary.json",
    "report.html",
)
RUN_FOLDERS = ("eval", "md", "plots", "snapshots", "tensorboard")
# what may change between two calls of one run without changing its result
FREE_KEYS = frozenset(
    {"run.folder", "run.stop_after_minutes", "run.save_every_minutes", "run.tensorboard", "run.threads"}
)


@dataclass(frozen=True)
class Progress:
    """What a caller may show while training runs."""

    step: int
    epoch: int
    fraction: float
    elapsed_s: float
    loss: float
    latest: dict[str, float]
    best: float


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended: finished, or stopped early with everything saved."""

    run_dir: Path
    finished: bool
    steps: int
    epochs: float
    elapsed_s: float
    best: dict[str, float]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys on which two configurations disagree and that matter for the result: {key: (old, new)}."""
    a, b = flatten(old), flatten(new)
    keys = sorted((a.keys() | b.keys()) - FREE_KEYS)
    return {k: (a.get(k), b.get(k)) for k in keys if a.get(k) != b.get(k)}


def changes_text(changed: dict[str, tuple[Any, Any]]) -> str:
    """What `config_differences` found, in a line."""
    return ", ".join(f"{k}: {a!r} → {b!r}" for k, (a, b) in changed.items())


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raises ConfigError for a folder that is in use for something else."""
    if overwrite or not folder.exists() or (folder / "config.json").exists():
        return
    if any(path.name != ".lock" for path in folder.iterdir()):
        raise ConfigError(
            "the run folder is not empty and holds no run", where=str(folder), remedy="choose another name"
        )


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """All settings of a run, as they are read back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(config.model_dump(mode="python")))
    return plain


def completed_settings(old: dict[str, Any]) -> dict[str, Any]:
    """Settings of an earlier call; those that geomol did not have then are at their defaults."""
    try:
        return plain_settings(parse_config(old))
    except ConfigError:
        return old  # from another version of geomol: compared as it stands


def recorded_settings(record: Path) -> dict[str, Any]:
    """The settings of an earlier call, see `completed_settings`.

    Raises:
        ResumeError: the file is damaged.
    """
    try:
        old = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(old, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise ResumeError(
            "the record of the run's settings cannot be read",
            where=str(record),
            got=str(error),
            remedy="use --overwrite to start anew, or another name",
        ) from error
    return completed_settings(old)


def prepare_folder(config: TrainConfig, *, overwrite: bool, allow: Sequence[str]) -> bool:
    """Records the configuration, or recognises the run that is in the folder; True if there is one to continue.

    Raises:
        ResumeError: the folder holds a run with another configuration.
        OutputError: it cannot be written.
    """
    folder, record = config.run_dir, config.run_dir / "config.json"
    resolved = plain_settings(config)
    if record.exists() and not overwrite:
        differences = config_differences(recorded_settings(record), resolved)
        changed = {k: v for k, v in differences.items() if k not in allow}
        if changed:
            raise ResumeError(
                f"the run was made with another configuration ({changes_text(changed)})",
                where=str(folder),
                remedy="use --overwrite to start anew, --allow KEY to continue nevertheless, or another name",
            )
    try:
        if overwrite:
            remove_run(folder)
        record.write_text(json.dumps(resolved, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError("cannot write the run folder", where=str(folder), got=str(error)) from error
    return (folder / "state.safetensors").exists() or (folder / "state.prev.safetensors").exists()


def remove_run(folder: Path) -> None:
    """Deletes what an earlier run left here, and what was measured with its model; anything else stays."""
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    for name in RUN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


class Run:
    """A trainer with its folder: logs, saved states and the best model."""

    def __init__(self, config: TrainConfig, *, overwrite: bool, allow: Sequence[str]) -> None:
        self.config, self.dir = config, config.run_dir
        continues = prepare_folder(config, overwrite=overwrite, allow=allow)
        prepared = prepare(config)
        saved = load_state(self.dir) if continues else None
        if saved is None and config.run.start is not None:
            start_from(prepared.model, config.run.start)
        self.num_train, self.data_hash = len(prepared.parts["train"]), prepared.data_hash
        self.trainer = Trainer(prepared, config)
        self.latest: dict[str, float] = {}
        self.best_row: dict[str, float] = {}
        if saved is not None:
            self._continue_from(saved)
        length = None if saved is None else saved["log_length"]
        self.csv = CsvLog(self.dir / "metrics.csv", [*COLUMNS, *prepared.task.columns], length=length)
        self.timing = CsvLog(
            self.dir / "timing.csv", ["step", "seconds"], length=None if saved is None else saved["timing_length"]
        )
        self.tensorboard = (
            TensorBoardLog(self.dir / "tensorboard", first_step=self.trainer.step) if config.run.tensorboard else None
        )

    def _continue_from(self, saved: dict[str, Any]) -> None:
        if saved["data_hash"] != self.data_hash:
            raise ResumeError(
                "the data changed since the run was started",
                where=str(self.dir),
                expected=f"content {saved['data_hash'][:12]}",
                got=self.data_hash[:12],
                remedy="restore the data, or start anew with --overwrite",
            )
        self.trainer.load_state(saved["trainer"])
        self.latest, self.best_row = saved["latest"], saved["best_row"]

    def save(self) -> None:
        """Writes the state from which a later call continues exactly."""
        save_state(
            self.dir,
            {
                "trainer": self.trainer.state(),
                "data_hash": self.data_hash,
                "log_length": self.csv.length,
                "timing_length": self.timing.length,
                "latest": self.latest,
                "best_row": self.best_row,
            },
        )

    def validate(self) -> None:
        """Logs one row, and keeps the averaged weights if they are the best so far, or the last are wanted."""
        t = self.trainer
        errors = t.validate()
        row = {
            "step": t.step,
            "epoch": t.step / t.steps_per_epoch,
            "lr": t.learning_rate,
            "train_loss": t.loss_sum / max(1, t.loss_count),
            **errors,
        }
        t.loss_sum, t.loss_count = 0.0, 0
        self.latest = row
        score = t.task.score(errors)
        if score < t.best or self.config.run.keep == "last":
            t.best, self.best_row = score, row
            self._save_averaged(self.dir / "model.safetensors", row)
        if self.config.run.snapshots:
            (self.dir / "snapshots").mkdir(exist_ok=True)
            self._save_averaged(self.dir / "snapshots" / f"step-{t.step:07d}.safetensors", row)
        self.csv.write(row)
        self.timing.write({"step": t.step, "seconds": t.elapsed})
        if self.tensorboard is not None:
            self.tensorboard.write(t.step, row)

    def _save_averaged(self, path: Path, row: dict[str, float]) -> None:
        self.trainer.swap_average()
        try:
            save_model(
                path,
                self.trainer.model,
                provenance=self.provenance(row),
                errors={k: v for k, v in row.items() if k.startswith("valid_")},
                symmetry={},
            )
        finally:
            self.trainer.swap_average()

    def provenance(self, row: dict[str, float]) -> dict[str, Any]:
        """Where the weights come from; the same for every repetition of the run."""
        return {
            "data": self.config.data.source,
            "data_sha256": self.data_hash,
            "split": self.config.data.split,
            "num_train": self.num_train,
            "config": {k: v for k, v in flatten(self.config.model_dump()).items() if k not in FREE_KEYS},
            "step": row["step"],
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "geomol": version("geomol"),
        }

    def progress(self) -> Progress:
        t = self.trainer
        loss = t.loss_sum / t.loss_count if t.loss_count else self.latest.get("train_loss", float("nan"))
        return Progress(t.step, t.epoch, t.progress, t.elapsed, loss, self.latest, t.best)

    def result(self, *, finished: bool) -> TrainResult:
        """Closes the logs and writes `summary.json`."""
        if self.tensorboard is not None:
            self.tensorboard.close()
        t = self.trainer
        summary = {
            "finished": finished,
            "steps": t.step,
            "epochs": t.step / t.steps_per_epoch,
            "training_minutes": t.elapsed / 60,
            "num_parameters": sum(p.numel() for p in t.parameters),
            "best": self.best_row,
        }
        (self.dir / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        return TrainResult(self.dir, finished, t.step, t.step / t.steps_per_epoch, t.elapsed, self.best_row)
