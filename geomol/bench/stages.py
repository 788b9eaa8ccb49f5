"""Where the time of one energy + force call goes, beside a plain eager version of the same model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from ase import Atoms

from geomol.bench.plain import plain_potential
from geomol.bench.roofline import Machine, Work, count_work, measure_machine
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

    `ratio` is plain / ours of whole ASE calls, median over rounds of one call each in turn, and `compiled_ratio` that
    of plain / compiled where it was asked for. `work` is that of one evaluation of energy and forces, `machine` what it
    ran on.
    """

    num_atoms: int
    num_edges: int
    threads: int
    dtype: str
    stages: list[Timing]
    ratio: float
    force_difference_eV_per_A: float  # noqa: N815
    work: Work
    machine: Machine
    compiled_ratio: float | None = None

    @property
    def of_floor(self) -> float:
        """Share of the evaluation's time that its products of matrices would take at the machine's best."""
        taken = sum(t.median_s for t in self.stages if t.stage in ("forward", "backward"))
        return self.machine.floor_s(self.work) / taken

    def figures(self) -> dict[str, float | str]:
        """All figures under names with units, for JSON."""
        return {
            "num_atoms": self.num_atoms,
            "num_edges": self.num_edges,
            "threads": self.threads,
            "dtype": self.dtype,
            **{f"{t.stage.replace(' ', '_')}_median_s": t.median_s for t in self.stages},
            "plain_over_ours": self.ratio,
            **({} if self.compiled_ratio is None else {"plain_over_compiled": self.compiled_ratio}),
            "force_difference_eV_per_A": self.force_difference_eV_per_A,
            "gflop": self.work.flops / 1e9,
            "traffic_unfused_MB": self.work.bytes / 1e6,
            "machine_gflop_per_s": self.machine.flops_per_s / 1e9,
            "machine_GB_per_s": self.machine.bytes_per_s / 1e9,
            "floor_s": self.machine.floor_s(self.work),
            "share_of_floor": self.of_floor,
        }


def measure_stages(
    potential: Potential, atoms: Atoms, *, rounds: int = 30, warmup: int = 3, compiled: bool = False
) -> StageReport:
    """Times neighbour list, forward, backward and the rest of an ASE call, in turn with the plain version (A B A B …).

    Both calculators see the same positions in each round, atoms moved before every round; their forces must agree
    first. With `compiled` a calculator with a compiled step takes its turn as well.

    Raises:
        GeomolError: the plain version gives other forces.
        ConfigError: a potential that cannot be compiled.
    """
    plain = plain_potential(potential).eval()
    calculators = {"ASE call": GeomolCalculator(potential), "ASE call, plain": GeomolCalculator(plain)}
    if compiled:
        calculators["ASE call, compiled"] = GeomolCalculator(potential, compile=True)
    ours, theirs = calculators["ASE call"], calculators["ASE call, plain"]
    difference = float(np.abs(_forces(ours, atoms) - _forces(theirs, atoms)).max())
    if difference > AGREEMENT:
        raise GeomolError("the plain version computes other forces", got=f"{difference:.3g} eV/Å apart")
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {}
    for number in range(rounds + warmup):
        moved = atoms.copy()
        moved.positions += rng.normal(scale=MOVE, size=moved.positions.shape)
        row = _one_round(potential, calculators, moved)
        if number >= warmup:
            for stage, seconds in row.items():
                times.setdefault(stage, []).append(seconds)
    ratios = {
        name: float(np.median(np.array(times["ASE call, plain"]) / np.array(times[name]))) for name in calculators
    }
    device = _device(potential)
    graph = build_graph(atoms, potential.cutoff, device=device)
    stages = [Timing(stage, *(float(q) for q in np.quantile(t, [0.5, 0.25, 0.75]))) for stage, t in times.items()]
    return StageReport(
        len(atoms),
        graph.num_edges,
        torch.get_num_threads(),
        str(potential.dtype).removeprefix("torch."),
        stages,
        ratios["ASE call"],
        difference,
        count_work(lambda: potential(graph)),
        measure_machine(potential.dtype, device),
        ratios.get("ASE call, compiled"),
    )


def _device(potential: Potential) -> torch.device:
    return next((p.device for p in potential.parameters()), torch.device("cpu"))


def _one_round(potential: Potential, calculators: dict[str, GeomolCalculator], atoms: Atoms) -> dict[str, float]:
    row, device = {}, _device(potential)
    row["neighbour list"], graph = _timed(lambda: build_graph(atoms, potential.cutoff, device=device), device)
    row["forward"], _ = _timed(lambda: potential(graph, forces=False), device)
    both, _ = _timed(lambda: potential(graph), device)
    row["backward"] = both - row["forward"]
    for name, calculator in calculators.items():
        row[name], _ = _timed(partial(_forces, calculator, atoms), device)
    row["overhead of ASE"] = row["ASE call"] - both
    return row


def _forces(calculator: GeomolCalculator, atoms: Atoms) -> np.ndarray:
    return np.asarray(calculator.get_forces(atoms))


def _timed(function: Callable[[], T], device: torch.device) -> tuple[float, T]:
    start = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result
