"""Where the time of one energy + force call goes, beside a plain eager version of the same model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from ase import Atoms

from geomol.bench.plain import plain_potential
from geomol.errors import GeomolError
from geomol.graph import build_graph
from geomol.md import GeomolCalculator
from geomol.potential import Potential

T = TypeVar("T")
MOVE = 1e-3  # Å, so that no call can reuse the last result
AGREEMENT = 1e-4  # eV/Å in float32: larger differences mean the two are not the same function


@dataclass(frozen=True)
class Timing:
    """Seconds of one stage over all rounds: median and quartiles."""

    stage: str
    median_s: float
    lower_s: float
    upper_s: float


@dataclass(frozen=True)
class StageReport:
    """Stages of our call, the whole calls side by side, and their ratio.

    `ratio` is plain / ours of whole ASE calls, median over rounds of one call each in turn.
    """

    num_atoms: int
    num_edges: int
    threads: int
    dtype: str
    stages: list[Timing]
    ratio: float
    force_difference_eV_per_A: float  # noqa: N815

    def figures(self) -> dict[str, float | str]:
        """All figures under names with units, for JSON."""
        return {
            "num_atoms": self.num_atoms,
            "num_edges": self.num_edges,
            "threads": self.threads,
            "dtype": self.dtype,
            **{f"{t.stage.replace(' ', '_')}_median_s": t.median_s for t in self.stages},
            "plain_over_ours": self.ratio,
            "force_difference_eV_per_A": self.force_difference_eV_per_A,
        }


def measure_stages(potential: Potential, atoms: Atoms, *, rounds: int = 30, warmup: int = 3) -> StageReport:
    """Times neighbour list, forward, backward and the rest of an ASE call, in turn with the plain version (A B A B …).

    Both calculators see the same positions in each round, atoms moved before every round; their forces must agree
    first.

    Raises:
        GeomolError: the plain version gives other forces.
    """
    plain = plain_potential(potential).eval()
    ours, theirs = GeomolCalculator(potential), GeomolCalculator(plain)
    difference = float(np.abs(_forces(ours, atoms) - _forces(theirs, atoms)).max())
    if difference > AGREEMENT:
        raise GeomolError("the plain version computes other forces", got=f"{difference:.3g} eV/Å apart")
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {}
    for number in range(rounds + warmup):
        moved = atoms.copy()
        moved.positions += rng.normal(scale=MOVE, size=moved.positions.shape)
        row = _one_round(potential, ours, theirs, moved)
        if number >= warmup:
            for stage, seconds in row.items():
                times.setdefault(stage, []).append(seconds)
    ratio = float(np.median(np.array(times["ASE call, plain"]) / np.array(times["ASE call"])))
    graph = build_graph(atoms, potential.cutoff)
    stages = [Timing(stage, *(float(q) for q in np.quantile(t, [0.5, 0.25, 0.75]))) for stage, t in times.items()]
    return StageReport(
        len(atoms),
        graph.num_edges,
        torch.get_num_threads(),
        str(potential.dtype).removeprefix("torch."),
        stages,
        ratio,
        difference,
    )


def _one_round(
    potential: Potential, ours: GeomolCalculator, theirs: GeomolCalculator, atoms: Atoms
) -> dict[str, float]:
    row = {}
    row["neighbour list"], graph = _timed(lambda: build_graph(atoms, potential.cutoff))
    row["forward"], _ = _timed(lambda: potential(graph, forces=False))
    both, _ = _timed(lambda: potential(graph))
    row["backward"] = both - row["forward"]
    row["ASE call"], _ = _timed(lambda: _forces(ours, atoms))
    row["overhead of ASE"] = row["ASE call"] - both
    row["ASE call, plain"], _ = _timed(lambda: _forces(theirs, atoms))
    return row


def _forces(calculator: GeomolCalculator, atoms: Atoms) -> np.ndarray:
    return np.asarray(calculator.get_forces(atoms))


def _timed(function: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result
