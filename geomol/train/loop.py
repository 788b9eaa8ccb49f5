"""A training run from start, or from wherever it was interrupted, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from geomol.errors import ConfigError
from geomol.train.config import TrainConfig
from geomol.train.lock import only_process
from geomol.train.run import Progress, Run, TrainResult, check_folder


def check_device(name: str) -> None:
    """Raises ConfigError for a device this machine lacks, with those it has."""
    known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if (name != "cuda" and name not in known) or (name == "cuda" and len(known) == 1):
        raise ConfigError(f'device "{name}" does not exist here', expected=f"one of {known}")


def train(
    config: TrainConfig,
    *,
    overwrite: bool = False,
    allow: Sequence[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Trains a model, or continues the run found in its folder; interrupting it at any moment loses nothing but time.

    The state is saved every `run.save_every_minutes`, at the end, and on KeyboardInterrupt. A run over epochs that was
    killed and continued, any number of times, ends with the same bytes in `model.safetensors`, `metrics.csv` and the
    state as an uninterrupted one (same machine and number of threads).

    Raises:
        ResumeError: the folder holds a run with other data or configuration, or one that is going on.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    threads = torch.get_num_threads()
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    try:
        check_device(config.run.device)
        check_folder(config.run_dir, overwrite=overwrite)
        with only_process(config.run_dir):
            return _train(config, overwrite=overwrite, allow=allow, on_progress=on_progress)
    finally:
        torch.set_num_threads(threads)


def _train(
    config: TrainConfig,
    *,
    overwrite: bool,
    allow: Sequence[str],
    on_progress: Callable[[Progress], None] | None,
) -> TrainResult:
    run = Run(config, overwrite=overwrite, allow=allow)
    t = run.trainer
    clock = time.process_time if config.schedule.clock == "cpu" else time.perf_counter
    started, last, last_save = clock(), clock(), clock()
    try:
        while t.progress < 1:
            t.train_step()
            now = clock()
            t.elapsed, last = t.elapsed + (now - last), now
            if t.step % (t.steps_per_epoch * config.run.validate_every) == 0 or t.progress >= 1:
                run.validate()
            if on_progress is not None:
                on_progress(run.progress())
            if now - last_save > 60 * config.run.save_every_minutes:
                run.save()
                last_save = clock()
            stop = config.run.stop_after_minutes
            if stop is not None and now - started > 60 * stop and t.progress < 1:
                run.save()
                return run.result(finished=False)
    except KeyboardInterrupt:
        run.save()
        run.result(finished=False)
        raise
    run.save()
    return run.result(finished=True)
