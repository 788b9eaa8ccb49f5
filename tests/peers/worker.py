"""Runs inside a peer's environment: builds one calculator and answers requests, one JSON line each, over its pipes.

Started as `python -m peers.worker` in the folder `tests`; needs ASE and the peer alone. Requests:

    {"do": "build", "peer", "elements", "cutoff", "dtype", "seed", "threads", "options"}  parameters, versions
    {"do": "structure", "numbers", "positions", "cell", "pbc"}                             directed pairs
    {"do": "hold", "positions", "cell"} or {"do": "hold"}                                  nothing; see `models.Peer`
    {"do": "evaluate", "positions", "cell"}                                                energy, forces
    {"do": "time", "positions", "clock"}                                                   seconds of energy + forces
    {"do": "stop"}

A failure is an answer too: {"error": "Type: message"}; the worker then waits for the next request. `--memory GiB`
bounds its address space, so that too large a model is such a failure and not the end of other programs.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from ase import Atoms

from .models import BUILDERS, Builder, Peer, Settings

REPORTED = (
    *("torch", "e3nn", "ase", "mace-torch", "nequip", "schnetpack", "torchmd-net", "sevenn", "torch-geometric"),
    "faenet",
)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# of torch's allocator, of C++ and of the system; torch has no type of its own for it on a CPU
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")


class Server:
    """State between requests: the peer and the structure."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.atoms: Atoms | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        handlers = {
            "build": self.build,
            "structure": self.structure,
            "hold": self.hold,
            "evaluate": self.evaluate,
            "time": self.time,
        }
        return handlers[request["do"]](request)

    def build(self, request: dict[str, Any]) -> dict[str, Any]:
        self.peer = self.atoms = None
        gc.collect()
        torch.set_num_threads(int(request["threads"]))
        torch.set_default_dtype(torch.float32)  # weights are drawn in float32 for either precision
        torch.manual_seed(int(request["seed"]))
        settings = Settings(
            tuple(request["elements"]), request["cutoff"], request["dtype"], request["seed"], request["options"]
        )
        self.peer = builder(request["peer"])(settings)
        return {
            "parameters": self.peer.parameters,
            "settings": self.peer.settings,
            "exact": self.peer.exact,
            "held": self.peer.held,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def structure(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.peer is not None
        self.atoms = Atoms(request["numbers"], request["positions"], cell=request["cell"], pbc=request["pbc"])
        return {"pairs": self.peer.pairs(self.atoms)}

    def hold(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.peer is not None
        assert self.peer.hold is not None
        self.peer.hold(self._moved(request) if "positions" in request else None)
        return {}

    def evaluate(self, request: dict[str, Any]) -> dict[str, Any]:
        atoms = self._moved(request)
        assert self.peer is not None
        energy, forces, _ = energy_and_forces(self.peer.calculator, atoms)
        return {"energy": energy, "forces": forces.tolist()}

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        atoms = self._moved(request)
        assert self.peer is not None
        energy, _, seconds = energy_and_forces(self.peer.calculator, atoms, CLOCKS[request.get("clock", "wall")])
        return {"seconds": seconds, "energy": energy, "peak_bytes": peak_bytes()}

    def _moved(self, request: dict[str, Any]) -> Atoms:
        if self.atoms is None:
            raise RuntimeError("no structure was given")
        atoms: Atoms = self.atoms.copy()
        atoms.set_positions(np.asarray(request["positions"], dtype=np.float64))
        if "cell" in request:
            atoms.set_cell(request["cell"])
        return atoms


def energy_and_forces(
    calculator: Any, atoms: Atoms, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, np.ndarray, float]:
    """One ASE call for both, with the neighbour list, and its seconds by this clock."""
    atoms.calc = calculator
    start = clock()
    forces = atoms.get_forces()
    energy = atoms.get_potential_energy()
    seconds = clock() - start
    return float(energy), np.asarray(forces, dtype=np.float64), seconds


def peak_bytes() -> int | None:
    """Largest memory of this process so far, of which some 250 MB are torch; None where /proc does not tell.

    Not by getrusage: a child starts with the peak of its parent there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


def builder(name: str) -> Builder:
    """One of `models.BUILDERS`, or the function of a file given as `FILE.py:FUNCTION`."""
    if ":" not in name:
        return BUILDERS[name]
    path, function = name.rsplit(":", 1)
    spec = importlib.util.spec_from_file_location("peer_of_a_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Builder = getattr(module, function)
    return found


def versions() -> dict[str, str]:
    """Versions of what is installed here among the packages worth naming."""
    found = {}
    for name in REPORTED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def own_pipe() -> IO[str]:
    """The pipe to the parent; whatever packages print goes to the log instead."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def bound_memory(gibibytes: float) -> None:
    """No more address space than this for this process; where memory ends all the same, this one goes first."""
    bound = int(gibibytes * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    score = Path("/proc/self/oom_score_adj")
    if score.is_file():
        score.write_text("1000", encoding="ascii")


def reason(error: Exception) -> str:
    """Type and message on one line; told apart is what ran out of memory."""
    text = " ".join(str(error).split()).replace(str(Path.home()), "~")
    short = isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY)
    return f"{'out of memory: ' if short else ''}{type(error).__name__}: {text}"[:400]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", type=float)
    memory = parser.parse_args(arguments).memory
    if memory is not None:
        bound_memory(memory)
    pipe, server = own_pipe(), Server()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "stop":
            break
        try:
            reply = server.answer(request)
        except Exception as error:  # the reason is a row of the table
            reply = {"error": reason(error)}
            error.__traceback__ = None  # its frames hold the tensors
            gc.collect()
        pipe.write(json.dumps(reply) + "\n")
        pipe.flush()


if __name__ == "__main__":
    main()
