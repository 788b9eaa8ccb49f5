"""The parent's end of a worker: one request, one answer, and a limit on the wait."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ase import Atoms

from .environments import worker_variables

TESTS = Path(__file__).resolve().parents[1]


class PeerFailedError(Exception):
    """A worker did not start, did not answer in time, or answered with an error; the message is the reason."""


class Worker:
    """A process that holds one calculator. Requests block, so that of all workers only one computes at any time.

    Args:
        python: interpreter of its environment.
        group: key of `environments.GROUPS`; None for the environment of this process.
        threads: threads it may use.
        log: file for what it and its packages print.
        limit: seconds to wait for one answer.
        memory: GiB of address space it may take; None for no bound.
    """

    def __init__(
        self,
        python: Path,
        group: str | None,
        *,
        threads: int,
        log: Path,
        limit: float = 600.0,
        memory: float | None = None,
    ) -> None:
        self.limit, self.log, self.threads = limit, log, threads
        self._buffer = b""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("wb")
        try:
            self._process = subprocess.Popen(
                [str(python), "-m", "peers.worker", *([] if memory is None else ["--memory", str(memory)])],
                cwd=TESTS,
                env=worker_variables(group, threads, TESTS.parent),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
            )
        except OSError as error:
            self._log.close()
            raise PeerFailedError(f"does not start: {error.strerror}") from error

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
            PeerFailedError: see there.
        """
        assert self._process.stdin is not None
        data = (json.dumps({"do": do, **request}) + "\n").encode()
        try:
            while data:  # an unbuffered pipe may take a part
                data = data[self._process.stdin.write(data) or 0 :]
        except OSError as error:
            raise PeerFailedError(self._last_words()) from error
        reply: dict[str, Any] = json.loads(self._line(do))
        if "error" in reply:
            raise PeerFailedError(f"{do}: {reply['error']}")
        return reply

    def build(self, peer: str, atoms: Atoms, *, cutoff: float, dtype: str, seed: int, **options: Any) -> dict[str, Any]:
        """Builds the peer for the elements of these atoms and gives it the structure; both answers in one."""
        built = self.ask(
            "build",
            peer=peer,
            elements=sorted({int(z) for z in atoms.numbers}),
            cutoff=cutoff,
            dtype=dtype,
            seed=seed,
            threads=self.threads,
            options=options,
        )
        return built | self.ask(
            "structure",
            numbers=atoms.numbers.tolist(),
            positions=atoms.positions.tolist(),
            cell=atoms.cell.tolist(),
            pbc=atoms.pbc.tolist(),
        )

    def close(self) -> None:
        """Ends the process, by force if it does not go."""
        if self._process.poll() is None:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(b'{"do": "stop"}\n')
                self._process.stdin.close()
                self._process.wait(timeout=5.0)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, do: str) -> bytes:
        assert self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + self.limit
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self._process.kill()
                self._process.wait()
                raise PeerFailedError(f"{do}: no answer within {self.limit:g} s")
            chunk = os.read(pipe, 1 << 20)
            if not chunk:
                raise PeerFailedError(self._last_words())
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = lines[-1][:300] if lines else "no output"
        if code == -signal.SIGKILL:
            return f"the worker was killed, as the system does when memory runs out: {last}"
        return f"the worker ended with code {code}: {last}"
