"""Everything that is to be measured on a GPU, by one command that takes up where it was cut off.

    python tests/gpu/measure.py -o runs/gpu                            # after: python -m pytest tests/gpu
    python tests/gpu/measure.py -o runs/try --device cpu --atoms 500   # does it run at all?

Each measurement leaves NAME.json in the folder and is not done again; until it is whole, each of its rows is kept in
NAME.partial.json as soon as it is there. Times are medians of single calls, each waited
for. `geomol bench cost --device cuda` and `geomol md --replicas --device cuda` time the whole way through ASE and disk.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read
from torch import Tensor

from geomol.bench.roofline import Work, measure_machine
from geomol.bench.sizes import repeated
from geomol.checkpoint import load_potential
from geomol.compiled import CompiledPotential, ReplayedPotential, ReplayedTraining
from geomol.graph import Graph, build_graph, cell_graph, cell_pairs
from geomol.ops import gated_messages
from geomol.ops.fused import separable_conv

ROUNDS = 20
REPEATS = 100
ORIENTATIONS, CHANNELS, DEGREES, RADIAL = 12, 64, 4, 8
Figures = dict[str, float]
Rows = Iterator[tuple[str, Callable[[], Figures]]]  # names, and what measures them
Arrays = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # positions, numbers, first atoms, cell, periodicity


def seconds(function: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Median time of a call, after three that do not count."""
    times = []
    for number in range(rounds + 3):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 3:
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def on_device(atoms: Atoms, device: torch.device) -> Arrays:
    """A structure as tensors."""
    arrays = (atoms.positions, atoms.numbers.astype(np.int64), np.array([0, len(atoms)]))
    box = (atoms.cell.array[None], atoms.pbc[None])
    pos, numbers, ptr, cell, pbc = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (*arrays, *box))
    return pos, numbers, ptr, cell, pbc


def machine(device: torch.device, sizes: Sequence[int]) -> Rows:
    """What the device does at its best."""

    def at_best() -> Figures:
        found = measure_machine(torch.float32, device)
        return {"gflop_per_s": found.flops_per_s / 1e9, "GB_per_s": found.bytes_per_s / 1e9}

    yield "", at_best


def lists(device: torch.device, sizes: Sequence[int]) -> Rows:
    """Neighbour lists of copper, 5 Å."""

    def one(num: int) -> Figures:
        pos, _, ptr, cell, pbc = on_device(atoms := repeated(bulk("Cu", cubic=True), num), device)
        search = partial(cell_pairs, pos, ptr, cell, pbc, 5.0)
        taken, pairs = seconds(search, device), len(search()[0])
        return {"ns_per_atom": 1e9 * taken / len(atoms), "ns_per_pair": 1e9 * taken / pairs}

    for num in sizes:
        yield str(num), partial(one, num)


def step(model: Any, given: Arrays) -> object:
    """Energy and forces of a structure on the device, its neighbours found there."""
    return model(cell_graph(*given, model.cutoff))


def steps(device: torch.device, sizes: Sequence[int]) -> Rows:
    """Growing crystals, the list included: atom-steps per second and memory."""

    def one(crystal: Atoms, model: Any, num: int) -> Figures:
        given = on_device(atoms := repeated(crystal, num), device)
        if device.type != "cuda":
            return {"atom_steps_per_s": len(atoms) / seconds(partial(step, model, given), device)}
        torch.cuda.reset_peak_memory_stats(device)
        rate = len(atoms) / seconds(partial(step, model, given), device)
        return {"atom_steps_per_s": rate, "peak_GB": torch.cuda.max_memory_allocated(device) / 1e9}

    for name, crystal in (("silicon", bulk("Si", cubic=True)), ("copper-emt", bulk("Cu", cubic=True))):
        potential = load_potential(name, device=device)
        for kind, model in (("", potential), ("_compiled", CompiledPotential(potential))):
            for num in sizes:
                yield f"{name}{kind}_{num}", partial(one, crystal, model, num)


def small(device: torch.device, sizes: Sequence[int]) -> Rows:
    """One molecule at a time, its pairs known: plain, compiled, and where there is one, replayed as a CUDA graph."""

    def one(model: Any, graph: Graph) -> Figures:
        return {"steps_per_s": 1 / seconds(partial(model, graph), device, rounds=10 * ROUNDS)}

    aspirin = read(Path(__file__).with_name("aspirin.xyz"))
    for name in ("ethanol-egnn", "ethanol-r3s2", "rmd17-ethanol", "rmd17-aspirin"):
        potential = load_potential(name, device=device)
        atoms = aspirin if name == "rmd17-aspirin" else molecule("CH3CH2OH")
        graph = build_graph(atoms, potential.cutoff, device=device)
        kinds: dict[str, Any] = {"plain": potential, "compiled": CompiledPotential(potential)}
        if device.type == "cuda":
            kinds["replayed"] = ReplayedPotential(potential)
            kinds["replayed_uncompiled"] = ReplayedPotential(potential, backend=None)
        for kind, model in kinds.items():
            yield f"{name}_{kind}", partial(one, model, graph)


def training(device: torch.device, sizes: Sequence[int]) -> Rows:
    """Gradients of a loss on energies and forces of five ethanol molecules: plain, compiled, and replayed."""

    def gradients(model: Any, graph: Graph, weights: list[Tensor]) -> object:
        out = model(graph, create_graph=True)
        return torch.autograd.grad(out.energy.sum() + out.forces.square().sum(), weights, allow_unused=True)

    def one(model: Any, graph: Graph, weights: list[Tensor]) -> Figures:
        return {"steps_per_s": 1 / seconds(partial(gradients, model, graph, weights), device, rounds=5 * ROUNDS)}

    for name in ("rmd17-ethanol", "ethanol-r3s2"):
        potential = load_potential(name, device=device)
        weights = [p for p in potential.parameters() if p.requires_grad]
        graph = build_graph([molecule("CH3CH2OH")] * 5, potential.cutoff, device=device)
        kinds: dict[str, Any] = {"plain": potential, "compiled": CompiledPotential(potential)}
        if device.type == "cuda":
            kinds["replayed"] = ReplayedTraining(potential)
        for kind, model in kinds.items():
            yield f"{name}_{kind}", partial(one, model, graph, weights)


def against_floor(forward: float, backward: float, floor: float) -> Figures:
    """Seconds of an operator, and the share of them that its floor would take: as long forwards, twice that back."""
    return {
        "forward_s": forward,
        "forward_of_floor": floor / forward,
        "backward_s": backward,
        "backward_of_floor": 2 * floor / backward,
    }


def operator(device: torch.device, sizes: Sequence[int]) -> Rows:
    """The convolution of R³×S² against its floor: each array read or written once at the speed of a copy, or its sums
    at that of a large product, whichever takes longer.
    """

    def one(num: int) -> Figures:
        graph = cell_graph(*on_device(atoms := repeated(bulk("Cu", cubic=True), num), device), 5.0)
        edges, nodes = graph.num_edges, (len(atoms), ORIENTATIONS, CHANNELS)
        shapes = (nodes, (edges, ORIENTATIONS, DEGREES), (edges, RADIAL), (RADIAL, DEGREES, CHANNELS))
        args = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
        grad = torch.randn(nodes, device=device)
        work = Work(
            flops=2 * edges * CHANNELS * (DEGREES * RADIAL + ORIENTATIONS * (DEGREES + 1)),
            bytes=4 * (sum(a.numel() for a in args) + grad.numel()) + 16 * edges,
        )
        floor = max(best.floor_s(work), best.stream_s(work))
        forward = seconds(partial(separable_conv, *args, graph), device)
        out = separable_conv(*args, graph)
        backward = seconds(partial(torch.autograd.grad, out, args, grad, retain_graph=True), device)
        return against_floor(forward, backward, floor)

    best = measure_machine(torch.float32, device)
    for num in sizes:
        yield str(num), partial(one, num)


def edge_block(device: torch.device, sizes: Sequence[int]) -> Rows:
    """The edge block of EGNN, forwards and for forces, against the time of its products at the speed of a large one."""

    def one(num: int) -> Figures:
        graph = cell_graph(*on_device(atoms := repeated(bulk("Cu", cubic=True), num), device), 5.0)
        edges, nodes, c, k = graph.num_edges, len(atoms), CHANNELS, RADIAL
        shapes = (nodes, c), (nodes, c), (edges, k), (edges, 1), (c, k), (c,), (c, c), (c,), (1, c), (1,)
        tensors = [torch.randn(shape, device=device) for shape in shapes]
        for tensor in tensors[:4]:
            tensor.requires_grad_()  # the weights rest, as they do in dynamics
        p, q, f, omega, v, e, w, b, gate, shift = tensors
        block = partial(gated_messages, p, q, f, omega, (v, e), (w, b), (gate, shift), graph)
        floor = best.floor_s(Work(flops=2 * edges * c * (c + k), bytes=0))
        forward, out, grad = seconds(block, device), block(), torch.randn(nodes, c, device=device)
        backward = seconds(partial(torch.autograd.grad, out, tensors[:4], grad, retain_graph=True), device)
        return against_floor(forward, backward, floor)

    best = measure_machine(torch.float32, device)
    for num in sizes:
        yield str(num), partial(one, num)


def repeats(device: torch.device, sizes: Sequence[int]) -> Rows:
    """How many of a hundred runs give other bits than the first."""

    def compare() -> Figures:
        potential = load_potential("silicon", device=device)
        graph: Graph = cell_graph(*on_device(repeated(bulk("Si", cubic=True), min(sizes)), device), potential.cutoff)
        first = potential(graph)
        others = 0
        for _ in range(REPEATS):
            again = potential(graph)
            others += not (torch.equal(first.energy, again.energy) and torch.equal(first.forces, again.forces))
        return {"runs": REPEATS, "other_bits": others}

    yield "", compare


MEASUREMENTS = {f.__name__: f for f in (machine, lists, operator, edge_block, repeats, steps, small, training)}


def measure(out: Path, device: torch.device, sizes: Sequence[int], names: Sequence[str]) -> dict[str, Figures]:
    """All of these measurements, those in the folder read from there."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Figures] = {}
    for name in names:
        path = out / f"{name}.json"
        if not path.exists():
            finish(path, MEASUREMENTS[name](device, sizes))
        found[name] = json.loads(path.read_text(encoding="utf-8"))
        print(name, *(f"  {key} {value:.4g}" for key, value in found[name].items()), sep="\n", flush=True)
    return found


def finish(path: Path, rows: Rows) -> None:
    """Measures the rows that an earlier call left out, each on disk before the next begins."""
    partly = path.with_suffix(".partial.json")
    done: dict[str, Figures] = json.loads(partly.read_text(encoding="utf-8")) if partly.exists() else {}
    for row, figures in rows:
        if row not in done:
            done[row] = figures()
            write(partly, done)
    write(path, {f"{row}_{key}" if row else key: value for row in done for key, value in done[row].items()})
    partly.unlink()


def write(path: Path, content: object) -> None:
    """At once, so that a call that is cut off leaves no half of it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--atoms", default="1000,10000,100000", help="sizes of crystals")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names, comma separated")
    given = parser.parse_args()
    atoms = [int(word) for word in given.atoms.split(",")]
    measure(given.out, torch.device(given.device), atoms, given.only.split(","))
