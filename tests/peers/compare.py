"""The command: `python -m tests.peers.compare --peers mace,schnetpack --structures ethanol,aspirin,cu256 -o FOLDER`.

For each structure, two workers hold geomol's EGNN and R³×S², a third the peer. Every model passes the gate, then the
rounds go peer, EGNN, R³×S² and back (A B B A), one request at a time, so that only one process computes. What does not
install, build, pass or answer, or takes more than `--memory`, becomes a row with the reason.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from .environments import GROUP_OF, EnvironmentFailedError, create
from .gates import Gate, check, evaluate_held
from .process import TESTS, PeerFailedError, Worker
from .report import write
from .structures import checksum, structure

MOVE = 1e-3  # Å before each call, so that no calculator can reuse its last result
OURS = ("geomol-egnn", "geomol-r3s2")


@dataclass(frozen=True)
class Plan:
    """Settings of a comparison; see `parser` for their meaning."""

    out: Path
    environments: Path | None = None
    rounds: int = 20
    warmup: int = 3
    threads: int = 1
    cutoff: float = 5.0
    dtype: str = "float32"
    seed: int = 0
    limit: float = 900.0
    gate_atoms: int = 300
    memory: float | None = None
    clock: str = "wall"
    egnn: tuple[int, int] = (128, 4)
    r3s2: tuple[int, int] = (64, 4)
    compile: bool = False

    def options(self, name: str) -> dict[str, Any]:
        if name not in OURS:
            return {}
        channels, layers = self.egnn if name == "geomol-egnn" else self.r3s2
        return {"channels": channels, "layers": layers, "compile": self.compile}


@dataclass(frozen=True)
class Ready:
    """A worker with its model built in the precision of the clock, and the row it has so far."""

    worker: Worker
    row: dict[str, Any]


def compare(peers: Sequence[str], structures: Sequence[str], plan: Plan) -> dict[str, Any]:
    """All rows, written to `plan.out` after each; see `report.table` for how they read."""
    plan.out.mkdir(parents=True, exist_ok=True)
    pythons = {peer: _python(peer, plan) for peer in peers}
    results: dict[str, Any] = {"settings": _settings(plan), "machine": _machine(), "structures": {}, "rows": []}
    for name in structures:
        atoms = structure(name)
        results["structures"][name] = {"atoms": len(atoms), "sha256": checksum(atoms)}
        with ExitStack() as stack:
            ours = {o: _ready(stack, o, Path(sys.executable), name, atoms, plan) for o in OURS}
            results["rows"] += [o.row if isinstance(o, Ready) else o for o in ours.values()]
            held = {o: r for o, r in ours.items() if isinstance(r, Ready)}
            for peer in peers:
                with ExitStack() as own:
                    ready = _ready(own, peer, pythons[peer], name, atoms, plan)
                    row = ready.row if isinstance(ready, Ready) else ready
                    results["rows"].append(row)
                    if isinstance(ready, Ready):
                        _rounds(ready, held, atoms, plan)
                results["machine"]["load"] = _load()
                write(plan.out, results)
    return results


def _python(peer: str, plan: Plan) -> Path | str:
    """The interpreter of a peer, or why there is none."""
    group = GROUP_OF.get(peer)
    if group is None:
        known = peer in GROUP_OF or ":" in peer
        return Path(sys.executable) if known else f"unknown peer; known: {', '.join(GROUP_OF)}, or FILE.py:FUNCTION"
    if plan.environments is None:
        return "needs an environment of its own: name a folder with --environments"
    try:
        return create(plan.environments, group)
    except EnvironmentFailedError as error:
        return str(error)


def _ready(
    stack: ExitStack, peer: str, python: Path | str, name: str, atoms: Atoms, plan: Plan
) -> Ready | dict[str, Any]:
    """Starts a worker, runs the gate, and builds the model again for the clock; a row with the reason if it fails."""
    row: dict[str, Any] = {"structure": name, "atoms": len(atoms), "peer": peer, "status": "failed", "reason": ""}
    if isinstance(python, str):
        return row | {"reason": python}
    log = plan.out / "logs" / f"{name.replace(os.sep, '_')}-{peer.replace(os.sep, '_').replace(':', '_')}.txt"
    try:
        group = GROUP_OF.get(peer)
        worker = stack.enter_context(
            Worker(python, group, threads=plan.threads, log=log, limit=plan.limit, memory=plan.memory)
        )
        gate = forces = None
        if len(atoms) <= plan.gate_atoms:
            gate, forces = _gate(worker, peer, atoms, plan)
        built = _build(worker, peer, atoms, plan, plan.dtype)
        row |= {k: built[k] for k in ("parameters", "pairs", "settings", "threads", "versions")}
        if gate is None or forces is None:
            row["reason"] = f"gate not run above {plan.gate_atoms} atoms"
        else:
            _, at_clock = evaluate_held(worker, atoms, built["held"])
            if gate.dtype != plan.dtype:
                gate = replace(gate, precision_error=float(np.sqrt(np.mean((at_clock - forces) ** 2))))
            row["gate"] = gate.figures()
            if not gate.passed:
                return row | {"reason": f"gate: {gate.reason}"}
    except PeerFailedError as error:
        return row | {"reason": str(error)}
    return Ready(worker, row | {"status": "ok"})


def _build(worker: Worker, peer: str, atoms: Atoms, plan: Plan, dtype: str) -> dict[str, Any]:
    return worker.build(peer, atoms, cutoff=plan.cutoff, dtype=dtype, seed=plan.seed, **plan.options(peer))


def _gate(worker: Worker, peer: str, atoms: Atoms, plan: Plan) -> tuple[Gate, np.ndarray]:
    dtype = "float64"
    try:
        built = _build(worker, peer, atoms, plan, dtype)
    except PeerFailedError as error:
        if "NotImplementedError" not in str(error):
            raise
        dtype = "float32"
        built = _build(worker, peer, atoms, plan, dtype)
    return check(worker, atoms, dtype=dtype, exact=built["exact"], held=built["held"], seed=plan.seed)


def _rounds(peer: Ready, ours: dict[str, Ready], atoms: Atoms, plan: Plan, *, same_graph: bool = True) -> None:
    """Times all in turn and fills their rows; the ratio is that of each round, then the median.

    With `same_graph` a peer that lists other pairs than geomol is refused; trained models have cutoffs of their own.

    A model of geomol that fails has the reason in its row, leaves `ours`, and the others go on.
    """
    pairs = {o.row["pairs"] for o in ours.values()} | {peer.row["pairs"]} - {None}
    if same_graph and len(pairs) > 1:
        peer.row.update(status="failed", reason=f"not the same graph: {sorted(pairs)} directed pairs")
        return
    rng = np.random.default_rng(plan.seed)
    workers = {peer.row["peer"]: peer, **ours}
    times: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(plan.warmup + plan.rounds):
        moved = (atoms.positions + rng.normal(scale=MOVE, size=atoms.positions.shape)).tolist()
        for name in list(workers) if number % 2 == 0 else list(reversed(workers)):
            try:
                reply = workers[name].worker.ask("time", positions=moved, clock=plan.clock)
            except PeerFailedError as error:
                workers[name].row.update(status="failed", reason=str(error))
                if name not in ours:
                    return
                del workers[name], ours[name], times[name]
                continue
            workers[name].row["peak_bytes"] = reply["peak_bytes"]
            if number >= plan.warmup:
                times[name].append(reply["seconds"])
    ratios = {o: _quartiles(np.array(times[peer.row["peer"]]) / np.array(times[o])) for o in ours}
    peer.row.update(ratios=ratios, rounds_s=times, load=_load())
    for name, ready in workers.items():  # a model of geomol has the rounds with all peers
        ready.row["all_s"] = ready.row.get("all_s", []) + times[name]
        ready.row["seconds"] = _quartiles(np.array(ready.row["all_s"]))


def _quartiles(values: np.ndarray) -> dict[str, float]:
    lower, median, upper = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return {"median": median, "lower": lower, "upper": upper}


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "threads": plan.threads,
        "dtype": plan.dtype,
        "cutoff_A": plan.cutoff,
        "rounds": plan.rounds,
        "warmup": plan.warmup,
        "move_A": MOVE,
        "seed": plan.seed,
        "compile": plan.compile,
        "memory_GiB": plan.memory,
        "clock": plan.clock,
    }


def _machine() -> dict[str, Any]:
    names = [platform.machine()]
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")] or names
    return {"processor": names[0], "cores": os.cpu_count(), "load": _load()}


def _load() -> float | None:
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def _size(text: str) -> tuple[int, int]:
    channels, layers = text.split("x")
    return int(channels), int(layers)


def _outside(text: str) -> Path:
    path = Path(text).resolve()
    if path.is_relative_to(TESTS.parent):
        raise argparse.ArgumentTypeError("environments must lie outside the repository")
    return path


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.peers.compare", description=__doc__.splitlines()[0])
    p.add_argument("--peers", required=True, help=f"of {', '.join(GROUP_OF)}; or FILE.py:FUNCTION; comma-separated")
    p.add_argument("--structures", default="ethanol,aspirin,cu256", help="ethanol, aspirin, cu256, cu1000, or files")
    p.add_argument("-o", "--out", type=Path, required=True, help="where results.json, table.md and ratios.png go")
    p.add_argument("--environments", type=_outside, help="folder of the virtual environments, made where missing")
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--warmup", type=int, default=3, help="rounds not counted")
    p.add_argument("--threads", type=int, default=1, help="of every worker")
    p.add_argument("--cutoff", type=float, default=5.0, help="Å")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--limit", type=float, default=900.0, help="seconds to wait for one answer")
    p.add_argument("--gate-atoms", type=int, default=300, help="largest structure the gate runs on")
    p.add_argument("--memory", type=float, help="GiB of address space for each worker; no bound without it")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where other programs run beside it")
    p.add_argument("--egnn", type=_size, default=(128, 4), metavar="CxL", help="channels x layers of geomol's EGNN")
    p.add_argument("--r3s2", type=_size, default=(64, 4), metavar="CxL", help="channels x layers of geomol's R³×S²")
    p.add_argument("--compile", action="store_true", help="geomol's models as compiled functions")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    given = vars(parser().parse_args(arguments))
    peers, structures = (given.pop(k).split(",") for k in ("peers", "structures"))
    results = compare(peers, structures, Plan(**given))
    for row in results["rows"]:
        text = ", ".join(f"÷ {name} {r['median']:.2f}" for name, r in row.get("ratios", {}).items())
        seconds = f"{1e3 * row['seconds']['median']:.2f} ms" if row.get("seconds") else "–"
        print(f"{row['structure']:10} {row['peer']:14} {seconds:>12}  {text} {row['reason']}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
