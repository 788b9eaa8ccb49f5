"""What one energy + force call through ASE costs: each form of a model in turn, and where the time of a call goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import torch
from ase import Atoms

from geomol.bench.gates import (
    LARGEST_ROUNDING,
    REPEATS,
    FormGates,
    ModelGates,
    check_form,
    check_model,
    in_float64,
    measure_drift,
)
from geomol.bench.plain import has_plain_form, plain_potential
from geomol.bench.roofline import Machine, Work, count_work, measure_machine
from geomol.compiled import export_package, tabulated
from geomol.errors import ConfigError
from geomol.graph import build_graph
from geomol.md import Estimate, GeomolCalculator
from geomol.potential import Potential

T = TypeVar("T")
MOVE = 1e-3  # Å, so that no call can reuse the last result


@dataclass(frozen=True)
class Timing:
    """Seconds over all rounds: median and quartiles."""

    stage: str
    median_s: float
    lower_s: float
    upper_s: float


@dataclass(frozen=True)
class FormReport:
    """Whole calls of one form of a model.

    Attributes:
        name: plain (the paper's equations with full arrays), eager (the model as it is), compiled or packaged; with
            ", tables" where kernels are read from tables.
        timing: of a call.
        ratio: time of the first form over that of this one, median over rounds of one call each in turn; None where a
            gate does not hold, for a wrong result has no speed.
        gates: beside the same weights in float64, and beside itself.
        failed: the gates that do not hold, in words.
    """

    name: str
    timing: Timing
    ratio: float | None
    gates: FormGates
    failed: list[str]


@dataclass(frozen=True)
class CallReport:
    """Forms of a model side by side, the stages of an eager call, and what bounds them.

    `work` is that of one evaluation of energy and forces, `machine` what it ran on, `drift` that of the energy (meV per
    atom per ns) over `drift_steps` steps of the last form, None where no dynamics was asked for.
    """

    num_atoms: int
    num_edges: int
    threads: int
    dtype: str
    products: str
    forms: list[FormReport]
    stages: list[Timing]
    gates: ModelGates
    work: Work
    machine: Machine
    drift: Estimate | None = None
    drift_steps: int = 0

    @property
    def failed(self) -> list[str]:
        """Every gate that does not hold, in words."""
        return [*self.gates.failed, *(f"{form.name}: {what}" for form in self.forms for what in form.failed)]

    @property
    def of_floor(self) -> float:
        """Share of the evaluation's time that its products of matrices would take at the machine's best."""
        taken = sum(t.median_s for t in self.stages if t.stage in ("forward", "backward"))
        return self.machine.floor_s(self.work) / taken

    def figures(self) -> dict[str, object]:
        """All figures under names with units, for JSON."""
        drift = (
            {} if self.drift is None else {"drift_meV_per_atom_ns": self.drift.value, "drift_steps": self.drift_steps}
        )
        return {
            "num_atoms": self.num_atoms,
            "num_edges": self.num_edges,
            "threads": self.threads,
            "dtype": self.dtype,
            "products": self.products,
            "forms": [asdict(form) for form in self.forms],
            **{f"{t.stage.replace(' ', '_')}_median_s": t.median_s for t in self.stages},
            "gates": asdict(self.gates),
            "failed": self.failed,
            **drift,
            "gflop": self.work.flops / 1e9,
            "traffic_unfused_MB": self.work.bytes / 1e6,
            "machine_gflop_per_s": self.machine.flops_per_s / 1e9,
            "machine_GB_per_s": self.machine.bytes_per_s / 1e9,
            "floor_s": self.machine.floor_s(self.work),
            "share_of_floor": self.of_floor,
        }


def measure_call(
    potential: Potential,
    atoms: Atoms,
    *,
    rounds: int = 30,
    warmup: int = 3,
    compiled: bool = False,
    packaged: bool = False,
    tables: bool = False,
    drift: bool = False,
    products: str = "highest",
    repeats: int = REPEATS,
) -> CallReport:
    """Checks, then times, calls of every form in turn (A B C A B C …) and the stages of an eager one.

    All forms see the same positions in each round, atoms moved before every round. A gate that does not hold is
    reported, and the form has no ratio then.

    Args:
        potential: the model; its plain form is measured too where there is one.
        atoms: a structure that is not at rest.
        rounds, warmup: calls of each form, and those before them that do not count.
        compiled, packaged: measure these forms too, which takes minutes to make.
        tables: measure all of these with kernels read from tables as well.
        drift: also measure how well dynamics with the last form keeps its energy.
        products: digits of products of float32, as of `torch.set_float32_matmul_precision`; restored afterwards.
        repeats: calls that must give the same bits.

    Raises:
        ConfigError: a potential that cannot be compiled or exported, or no such precision.
        InputError: atoms at rest, or a single one.
    """
    if products not in LARGEST_ROUNDING:
        raise ConfigError("unknown precision of products", expected=" or ".join(LARGEST_ROUNDING), got=products)
    exact = in_float64(potential)
    model = check_model(exact, atoms)
    with ExitStack() as stack:
        stack.callback(potential.train, potential.training)  # calculators put what they share into its final mode
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision(products)
        calculators = _calculators(potential, stack, compiled, packaged, tables)
        gates = {name: check_form(c, exact, atoms, repeats=repeats) for name, c in calculators.items()}
        times = _times(potential, calculators, atoms, rounds, warmup)
        drifted = measure_drift(calculators[[*calculators][-1]], atoms) if drift else (None, 0)
    first, forms = np.array(times[f"ASE call, {next(iter(calculators))}"]), []
    for name, found in gates.items():
        seconds, failed = np.array(times.pop(f"ASE call, {name}")), found.failed(model.rms_force, products)
        ratio = None if failed or model.failed else float(np.median(first / seconds))
        forms.append(FormReport(name, _timing("ASE call", seconds), ratio, found, failed))
    device = _device(potential)
    graph = build_graph(atoms, potential.cutoff, device=device)
    return CallReport(
        len(atoms),
        graph.num_edges,
        torch.get_num_threads(),
        str(potential.dtype).removeprefix("torch."),
        products,
        forms,
        [_timing(stage, np.array(seconds)) for stage, seconds in times.items()],
        model,
        count_work(lambda: potential(graph)),
        measure_machine(potential.dtype, device),
        *drifted,
    )


def _calculators(
    potential: Potential, stack: ExitStack, compiled: bool, packaged: bool, tables: bool
) -> dict[str, GeomolCalculator]:
    """One for each form; the folders of packages are there until the stack is closed."""
    forms = {"plain": GeomolCalculator(plain_potential(potential).eval())} if has_plain_form(potential) else {}
    sources = {"": potential, ", tables": tabulated(potential)} if tables else {"": potential}
    for suffix, source in sources.items():
        forms[f"eager{suffix}"] = GeomolCalculator(source)
        if compiled:
            forms[f"compiled{suffix}"] = GeomolCalculator(source, compile=True)
        if packaged:
            path = Path(stack.enter_context(TemporaryDirectory())) / "model.pt2"
            export_package(source, path)
            forms[f"packaged{suffix}"] = GeomolCalculator.from_package(path)
    return forms


def _device(potential: Potential) -> torch.device:
    return next((p.device for p in potential.parameters()), torch.device("cpu"))


def _timing(stage: str, seconds: np.ndarray) -> Timing:
    return Timing(stage, *(float(q) for q in np.quantile(seconds, [0.5, 0.25, 0.75])))


def _times(
    potential: Potential, calculators: dict[str, GeomolCalculator], atoms: Atoms, rounds: int, warmup: int
) -> dict[str, list[float]]:
    """Seconds of every stage in every round."""
    rng, times = np.random.default_rng(0), dict[str, list[float]]()
    for number in range(rounds + warmup):
        moved = atoms.copy()
        moved.positions += rng.normal(scale=MOVE, size=moved.positions.shape)
        row = _one_round(potential, calculators, moved)
        if number >= warmup:
            for stage, seconds in row.items():
                times.setdefault(stage, []).append(seconds)
    return times


def _one_round(potential: Potential, calculators: dict[str, GeomolCalculator], atoms: Atoms) -> dict[str, float]:
    row, device = {}, _device(potential)
    row["neighbour list"], graph = _timed(lambda: build_graph(atoms, potential.cutoff, device=device), device)
    row["forward"], _ = _timed(lambda: potential(graph, forces=False), device)
    both, _ = _timed(lambda: potential(graph), device)
    row["backward"] = both - row["forward"]
    for name, calculator in calculators.items():
        row[f"ASE call, {name}"], _ = _timed(partial(calculator.get_forces, atoms), device)
    row["overhead of ASE"] = row["ASE call, eager"] - both
    return row


def _timed(function: Callable[[], T], device: torch.device) -> tuple[float, T]:
    start = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result
