"""Molecular dynamics of many replicas or many structures at once."""

# ruff: noqa: N815 — units keep their capitals

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from geomol.checkpoint.atomic import write_atomically
from geomol.errors import ConfigError
from geomol.md.batched_forces import check_structures
from geomol.md.batched_output import BatchRecorder, old_files
from geomol.md.batched_run import BatchRun, Replica, Stopped
from geomol.md.batched_summary import summarise_batch
from geomol.md.calculator import GeomolCalculator, ModelSource
from geomol.md.config import MDConfig, check_setup
from geomol.md.resume import find_checkpoint, identity

ENSEMBLES = ("nve", "nvt-langevin")


@dataclass(frozen=True)
class BatchProgress:
    """What a progress display needs: replicas that run, their mean temperature, and the speed of all together."""

    step: int
    steps: int
    time_fs: float
    replicas: int
    temperature_K: float
    ns_per_day: float
    eta_s: float


@dataclass(frozen=True)
class BatchResult:
    """Outcome of a batch of simulations.

    Attributes:
        atoms: final structures with momenta, one per replica; of a stopped replica the last good one.
        summary: what stands in the JSON file.
        trajectories: extended xyz, one per replica.
        table: CSV of observables, a row per replica and time.
        stopped: replicas that a guard has stopped.
        ns_per_day: speed of this session, all replicas together (0 if nothing was left to do).
    """

    atoms: list[Atoms]
    summary: dict[str, Any]
    trajectories: list[Path]
    table: Path
    stopped: list[Stopped]
    ns_per_day: float


def run_batched_md(
    structures: Atoms | Sequence[Atoms],
    calculator: GeomolCalculator | ModelSource,
    config: MDConfig,
    out_dir: str | Path,
    *,
    replicas: int = 1,
    temperatures_K: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    at_once: int | None = None,
    on_progress: Callable[[BatchProgress], None] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> BatchResult:
    """Simulate `replicas` copies of each structure at once; `nve` and `nvt-langevin`.

    Every replica takes the steps that `run_md` would take with its seed, apart from the rounding of a larger batch:
    replica 0 is the run of `config.seed`, replica k has random numbers of its own that follow from the seed and k, and
    what a replica does depends on no other. One trajectory per replica, `<name>.replica-0000.extxyz` and so on, and one
    table, `<name>.csv`, whose rows give replica, time, temperature, potential, kinetic and total energy; with
    `log_interval` they are what replica exchange and reweighting start from.

    A replica that breaks a guard is stopped and named in a warning, its last good frame is written to
    `<name>.replica-0003.last_good.extxyz`, and the others go on; only when none is left is it an error.

    A run that was killed at any moment and is continued with `resume` leaves the same bytes in all files as one that
    was not, on the same machine and number of threads. Positions are never wrapped.

    Args:
        structures: one structure, or several of any kind; not modified.
        calculator: a calculator, a potential, or the path or name of one.
        config: settings.
        out_dir: folder for the files; created if needed.
        replicas: copies of each structure. Copies of a structure follow each other.
        temperatures_K: of each replica; None: `config.temperature_K` for all.
        seeds: of each replica, which then is the run of this seed; None: from `config.seed`.
        at_once: structures computed in one call of the model; None: all. Results are the same to rounding.
        on_progress: called after every set of rows of the table.
        resume: continue from the last checkpoint; without one, start. `steps` may have grown.
        overwrite: start anew over the files of an earlier run.

    Raises:
        ConfigError: settings that do not fit, or files of an earlier run without `resume` or `overwrite`.
        ResumeError: structures, settings or potential differ from those of the checkpoint.
        InputError: coincident atoms, naming the structure.
        MDInstabilityError: the guards refused a structure at the start, or have stopped every replica.
        OutputError: the disk is full or read-only; the last checkpoint is intact.
    """
    calculator = calculator if isinstance(calculator, GeomolCalculator) else GeomolCalculator(calculator)
    chosen = _replicas(structures, config, replicas, temperatures_K, seeds)
    _check(chosen, calculator, config, at_once)
    folder, who = Path(out_dir), _identity(chosen, calculator, config)
    earlier = old_files(folder, config.name)
    if earlier and not (resume or overwrite):
        remedy = "ask to resume or to overwrite it"
        raise ConfigError("there is an earlier run here", got=str(earlier[0]), remedy=remedy)
    saved = find_checkpoint(folder, config, who, resume=resume, overwrite=overwrite)
    if saved is None:
        for path in earlier:
            path.unlink()
    recorder = BatchRecorder(folder, config.name, len(chosen), offsets=None if saved is None else saved["offsets"])
    run = BatchRun(chosen, calculator, config, folder, recorder, who, saved, at_once)
    start, first = time.perf_counter(), run.step

    def steps_per_second() -> float:
        return (run.step - first) / max(time.perf_counter() - start, 1e-9)

    def ns_per_day() -> float:
        return steps_per_second() * len(run.active) * config.timestep_fs * 1e-6 * 86400.0

    def report() -> None:
        if on_progress is not None:
            rate, speed = steps_per_second(), ns_per_day()
            left, time_fs = (config.steps - run.step) / rate, run.step * config.timestep_fs
            on_progress(
                BatchProgress(run.step, config.steps, time_fs, len(run.active), run.mean_temperature(), speed, left)
            )

    run.advance(report)
    speed = ns_per_day()
    summary = summarise_batch(recorder.table_path, chosen, run.freedoms, run.stopped, config)
    write_atomically(folder / f"{config.name}.json", (json.dumps(summary, indent=1) + "\n").encode())
    return BatchResult(run.final_atoms(), summary, recorder.trajectories, recorder.table_path, run.stopped, speed)


def _replicas(
    structures: Atoms | Sequence[Atoms],
    config: MDConfig,
    copies: int,
    temperatures_K: Sequence[float] | None,
    seeds: Sequence[int] | None,
) -> list[Replica]:
    """Who takes part, with temperature and seed.

    Raises:
        ConfigError: no structures or copies, or lists of another length.
    """
    given = [structures] if isinstance(structures, Atoms) else list(structures)
    if not given or copies < 1:
        raise ConfigError("there is nothing to simulate", got=f"{len(given)} structures, {copies} replicas of each")
    count = len(given) * copies
    kelvins = [config.temperature_K] * count if temperatures_K is None else [float(t) for t in temperatures_K]
    entropy = [(config.seed, k) for k in range(count)] if seeds is None else [(int(seed),) for seed in seeds]
    for name, values in (("temperatures_K", kelvins), ("seeds", entropy)):
        if len(values) != count:
            raise ConfigError(f"`{name}` needs one value per replica", expected=str(count), got=str(len(values)))
    if min(kelvins) < 0 or not np.isfinite(kelvins).all():
        raise ConfigError("a temperature is out of range", expected="numbers >= 0 (K)", got=str(kelvins))
    atoms = [each for each in given for _ in range(copies)]
    return [Replica(*each) for each in zip(atoms, kelvins, entropy, strict=True)]


def _check(replicas: Sequence[Replica], calculator: GeomolCalculator, config: MDConfig, at_once: int | None) -> None:
    if config.ensemble not in ENSEMBLES:
        expected = " or ".join(ENSEMBLES)
        raise ConfigError("many replicas at once know fewer ensembles", expected=expected, got=config.ensemble)
    if at_once is not None and at_once < 1:
        raise ConfigError("`at_once` is out of range", expected="a number of structures >= 1", got=str(at_once))
    distinct = list({id(replica.atoms): replica.atoms for replica in replicas}.values())
    coldest = config.model_copy(update={"temperature_K": min(replica.temperature_K for replica in replicas)})
    for atoms in distinct:
        check_setup(atoms, calculator, coldest)
        if atoms.constraints:
            raise ConfigError(
                "many replicas at once know no constraints",
                got=type(atoms.constraints[0]).__name__,
                remedy="simulate the structure alone",
            )
    check_structures(calculator, distinct)


def _identity(replicas: Sequence[Replica], calculator: GeomolCalculator, config: MDConfig) -> dict[str, Any]:
    """What must stay the same from session to session."""
    digest, seen = hashlib.sha256(), {}
    for replica in replicas:
        if id(replica.atoms) not in seen:
            seen[id(replica.atoms)] = identity(replica.atoms, None, config)["structure"]
        digest.update(seen[id(replica.atoms)].encode())
    shared = identity(replicas[0].atoms, calculator, config)
    people = [[replica.temperature_K, *replica.seed] for replica in replicas]
    return {
        **shared,
        "structure": digest.hexdigest(),
        "replicas": len(replicas),
        "temperatures_and_seeds": hashlib.sha256(json.dumps(people).encode()).hexdigest(),
    }
