"""Bonds by RDKit's DetermineBonds, in worker processes with a time limit for each molecule.

The perception can hang for minutes or exhaust the memory (rdkit issues 7922, 8006, 9227), inside C++ code that no
exception reaches. A worker that does not answer in time is killed and replaced; its molecule counts as failed.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geomol.data import Structures
from geomol.errors import GeomolError

TIME_LIMIT_S = 5.0
START_LIMIT_S = 120.0  # for loading RDKit on a busy machine; not part of any molecule's time
# -P: the folder of the worker must not be searched for modules
WORKER_COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("perception_worker.py")))


@dataclass(frozen=True, eq=False)
class Perceived:
    """Bonds of one molecule, or why there are none."""

    orders: np.ndarray | None  # (n, n) int8; None if perception failed
    charges: np.ndarray | None  # (n,) int64
    fault: str = ""


class PerceptionError(GeomolError, RuntimeError):
    """Workers that cannot be started, so that no molecule at all could be judged."""


class _Worker:
    """One process; `ask` starts it when there is none."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.process: subprocess.Popen[str] | None = None

    def ask(self, job: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The answer to a job, or {"fault": …} where the process hung or died, which ends it."""
        process = self.process or self._start()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({**job, "limit_s": limit_s}) + "\n")
            process.stdin.flush()
        except OSError:
            return self._lost("the worker died")
        line, late = self._read(process, limit_s)
        if late:
            return self._lost(f"no answer within {limit_s:g} s")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        return answer if isinstance(answer, dict) else self._lost("the worker died")

    def stop(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                with contextlib.suppress(OSError):  # what was still to be written has no reader any more
                    stream.close()
            self.process = None

    def _start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        line, late = self._read(self.process, START_LIMIT_S)
        if late or "ready" not in line:
            self.stop()
            got = f"no answer within {START_LIMIT_S:g} s" if late else "it ended"
            raise PerceptionError(
                "the worker for bond perception does not start", got=got, remedy="is RDKit installed?"
            )
        return self.process

    def _read(self, process: subprocess.Popen[str], limit_s: float) -> tuple[str, bool]:
        """One line of the process and whether it was too late, in which case the process has been killed."""
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
        finally:
            timer.cancel()
        return line, late.is_set() and not line.endswith("\n")

    def _lost(self, why: str) -> dict[str, Any]:
        assert self.process is not None
        self.stop()
        return {"fault": why}


def perceive(
    structures: Structures,
    *,
    charge: int = 0,
    time_limit_s: float = TIME_LIMIT_S,
    workers: int = 1,
    command: Sequence[str] = WORKER_COMMAND,
) -> list[Perceived]:
    """Bonds of every structure, in order; failures are answers too.

    Args:
        structures: molecules; those without atoms fail.
        charge: total charge of each, which the perception must know.
        time_limit_s: for one molecule; starting a process does not count.
        workers: processes at work.
        command: the program of a worker, for another perception than RDKit's: see `perception_worker`.

    Raises:
        PerceptionError: a worker does not start.
    """
    answers: list[Perceived | None] = [None] * len(structures)
    rows = iter(range(len(structures)))
    turn, faults = threading.Lock(), list[BaseException]()
    team = [_Worker(command) for _ in range(max(1, min(workers, len(structures))))]

    def work(worker: _Worker) -> None:
        try:
            while not faults and (row := _next(rows, turn)) is not None:
                answers[row] = _perceive_one(worker, structures, row, charge, time_limit_s)
        except BaseException as error:  # handed to the caller below
            faults.append(error)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in team]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:  # interrupted: the threads stop after their molecule, which ends with its worker
        faults.append(error)
        raise
    finally:
        for worker in team:
            worker.stop()
    if faults:
        raise faults[0]
    return [answer for answer in answers if answer is not None]


def _next(rows: Iterator[int], turn: threading.Lock) -> int | None:
    with turn:
        return next(rows, None)


def _perceive_one(worker: _Worker, structures: Structures, row: int, charge: int, limit_s: float) -> Perceived:
    atoms = slice(int(structures.ptr[row]), int(structures.ptr[row + 1]))
    numbers, pos = structures.numbers[atoms], structures.pos[atoms]
    if not len(numbers):
        return Perceived(None, None, "no atoms")
    if not np.isfinite(pos).all():
        return Perceived(None, None, "a position is not finite")
    answer = worker.ask({"numbers": numbers.tolist(), "pos": pos.tolist(), "charge": charge}, limit_s)
    if "fault" in answer:
        return Perceived(None, None, str(answer["fault"]))
    orders = np.zeros((len(numbers), len(numbers)), dtype=np.int8)
    for i, j, order in answer["bonds"]:
        orders[i, j] = orders[j, i] = order
    return Perceived(orders, np.array(answer["charges"], dtype=np.int64))
