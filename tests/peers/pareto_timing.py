"""The time of a call of what `pareto.py` has trained, by the gate and the rounds of `compare.py`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from . import compare
from .gates import evaluate
from .process import PeerFailedError, Worker

BUILDERS = Path(__file__).with_name("trained.py")
FORMS = ("plain", "compiled", "packaged")  # as geomol's calculator may hold a potential
SAME_FORCES = 1e-3  # of the rms force, between training and calculator in float32: the right weights are in it


@dataclass(frozen=True)
class Plan(compare.Plan):
    """Settings of the trainings, besides those of the timing; see `parser`."""

    minutes: float = 10.0
    molecule: str = "ethanol"
    forms: tuple[str, ...] = ("plain",)
    batch_size: int = 5
    rates: dict[str, float] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)  # options of the model that is being built

    def options(self, name: str) -> dict[str, Any]:
        return self.fixed

    @property
    def models(self) -> Path:
        return self.out / "models"


@dataclass(frozen=True)
class Model:
    """Something trained: its row so far, and how a worker builds its calculator."""

    row: dict[str, Any]
    python: Path
    group: str | None
    function: str
    options: dict[str, Any]


def time_all(models: dict[str, Model], peers: Sequence[str], atoms: Atoms, plan: Plan) -> None:
    """Gate and rounds of `compare.py`: each peer in turn with all models of geomol; fills the rows."""
    with ExitStack() as stack:
        held = {}
        for name in models:
            if name not in peers and (ready := _ready(stack, name, models[name], atoms, plan)):
                held[name] = ready
        for name in peers:
            with ExitStack() as own:
                ready = _ready(own, name, models[name], atoms, plan)
                if ready is not None:
                    compare._rounds(ready, held, atoms, plan, same_graph=False)
        if held and not any(models[name].row.get("seconds") for name in held):  # no peer that runs
            first, *rest = held
            compare._rounds(held[first], {name: held[name] for name in rest}, atoms, plan)


def _ready(stack: ExitStack, name: str, model: Model, atoms: Atoms, plan: Plan) -> compare.Ready | None:
    """Starts a worker, runs the gate and compares forces with those of the training; None if any of it fails."""
    row, plan = model.row, replace(plan, fixed=model.options)
    spec = f"{BUILDERS}:{model.function}"
    row.update(status="failed", reason="")
    try:
        log = plan.out / "logs" / f"{plain(name)}-timing.txt"
        worker = stack.enter_context(Worker(model.python, model.group, threads=1, log=log, limit=plan.limit))
        gate, exact = compare._gate(worker, spec, atoms, plan)
        built = compare._build(worker, spec, atoms, plan, plan.dtype)
        _, forces = evaluate(worker, atoms.positions, atoms.cell.tolist())
    except PeerFailedError as error:
        row["reason"] = str(error)
        return None
    rms = float(np.sqrt(np.mean(exact**2)))
    gate = replace(gate, precision_error=float(np.sqrt(np.mean((forces - exact) ** 2))))
    row.update(gate=gate.figures(), pairs=built["pairs"], settings=built["settings"], versions=built["versions"])
    difference = float(np.sqrt(np.mean((forces - np.array(row["first_forces"])) ** 2))) / rms
    if not gate.passed:
        row["reason"] = f"gate: {gate.reason}"
    elif not difference < SAME_FORCES:
        row["reason"] = f"the calculator does not give the forces of the trained network (off by {difference:.0e})"
    else:
        row["status"] = "ok"
        return compare.Ready(worker, row)
    return None


def plain(name: str) -> str:
    """A name for files: of a peer `FILE.py:FUNCTION`, the two last words."""
    return Path(name).name.replace(".py:", "-").replace(" ", "-")
