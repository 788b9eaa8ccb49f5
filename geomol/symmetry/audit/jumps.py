"""Search for discontinuities along paths: what a plain frame does where two axes of inertia are equal.

A path is sampled evenly; the intervals that stand out are divided by 8 again and again. Over ever shorter intervals
the change of a continuous function tends to 0 (in proportion to the length, if it has a slope, however steep), that
across a jump does not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.graph import Graph, GraphStore
from geomol.graph.repeat import repeat_structures
from geomol.symmetry.actions import Kind, about, act_on_graph, act_on_target
from geomol.symmetry.audit.lie import centres
from geomol.symmetry.audit.model import MAX_NODES, Model, run, side_by_side
from geomol.symmetry.audit.orbits import turn

DIVISION = 8
LEVELS = 7  # 192 intervals / 8^7: the last step is 2e-9 of the path
COARSE = 192
CANDIDATES = 4
_KEPT = 0.3  # share of the change that is left after two more divisions (by 64): a slope leaves 0.016, a root 0.125


@dataclass(frozen=True, eq=False)
class Path:
    """A path of one structure, parametrised by [0, 1].

    Attributes:
        name: "a rotation" or "a path through equal axes".
        samples: outputs (T, R, …) at T parameters.
        num_pairs: number of edges at T parameters, None where it never changes.
    """

    name: str
    samples: Callable[[Tensor], dict[str, Tensor]]
    num_pairs: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Scan:
    """What was found along one path.

    Attributes:
        path, output: names.
        jump: largest discontinuity, in the unit of the output; 0 where there is none.
        place: parameter of the jump in [0, 1].
        cutoff_jump: largest discontinuity where a pair enters or leaves the cutoff: another fault, found in passing.
        steepest: largest slope between two samples of the even scan, per unit of the parameter.
        step: the shortest interval that was looked at.
        curve: (COARSE + 1,) distance of the output from its value at the start, for a plot.
    """

    path: str
    output: str
    jump: float
    place: float
    cutoff_jump: float
    steepest: float
    step: float
    curve: Float[Tensor, " T"]


def scan(path: Path, *, noise: float = 1e-10, levels: int = LEVELS) -> list[Scan]:
    """Search one path for jumps of every output.

    Args:
        path: where to look.
        noise: changes below this, relative to 1 + the size of the output, are rounding.
        levels: divisions by 8.
    """
    t = torch.linspace(0, 1, COARSE + 1, dtype=torch.float64)
    found = []
    values = path.samples(t)
    path = _remembering(path)  # outputs mostly stand out in the same places
    for name, value in values.items():
        steps = _lengths(value[1:] - value[:-1])
        floor = noise * (1 + float(_lengths(value).max()))
        jumps = [  # with the intervals beside it, since the neighbour of an event may stand out more
            _divide(path, name, float(t[max(k - 1, 0)]), float(t[min(k + 2, COARSE)]), floor, levels)
            for k in _outstanding(value)
        ]
        jump, place, _ = max((found for found in jumps if not found[2]), default=(0.0, 0.0, False))
        found.append(
            Scan(
                path=path.name,
                output=name,
                jump=jump,
                place=place,
                cutoff_jump=max((size for size, _, crosses in jumps if crosses), default=0.0),
                steepest=float(steps.max()) * COARSE,
                step=1 / COARSE / DIVISION**levels,
                curve=_lengths(value - value[:1]),
            )
        )
    return found


def _remembering(path: Path) -> Path:
    """The path with the samples that were taken, by where they were taken."""
    known: dict[tuple[float, ...], dict[str, Tensor]] = {}

    def samples(t: Tensor) -> dict[str, Tensor]:
        place = tuple(t.tolist())
        if place not in known:
            known[place] = path.samples(t)
        return known[place]

    return dataclasses.replace(path, samples=samples)


def _outstanding(value: Tensor) -> list[int]:
    """The intervals whose change differs most from what a cubic through their neighbours says, and the largest."""
    steps = value[1:] - value[:-1]
    expected = (4 * (steps[1:-3] + steps[3:-1]) - steps[:-4] - steps[4:]) / 6
    bend = torch.zeros(len(steps), dtype=value.dtype)
    bend[2:-2] = _lengths(steps[2:-2] - expected)
    chosen = [int(_lengths(steps).argmax())]
    for _ in range(CANDIDATES - 1):
        k = int(bend.argmax())
        chosen.append(k)
        bend[max(k - 3, 0) : k + 4] = -1.0  # what stands out there is the same event
    return list(dict.fromkeys(chosen))


def _divide(path: Path, name: str, start: float, stop: float, floor: float, levels: int) -> tuple[float, float, bool]:
    """The jump in an interval (0 if the change dies away), its place, and whether a pair crosses the cutoff there."""
    changes: list[float] = []
    for _ in range(levels):
        t = torch.linspace(start, stop, DIVISION + 1, dtype=torch.float64)
        value = path.samples(t)[name]
        steps = value[1:] - value[:-1]
        outlier = _lengths(steps - steps.median(dim=0).values)
        k = int(outlier.argmax())
        changes.append(float(_lengths(steps)[k]))
        start, stop = float(t[k]), float(t[k + 1])
        if changes[-1] <= floor or float(outlier[k]) <= floor:  # nothing, or a straight line
            return 0.0, start, False
    stays = len(changes) < 3 or changes[-1] >= _KEPT * changes[-3]
    if not stays:
        return 0.0, start, False
    ends = None if path.num_pairs is None else path.num_pairs(torch.tensor([start, stop], dtype=torch.float64))
    return changes[-1], start, ends is not None and bool(ends[0] != ends[1])


def _lengths(value: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(value.reshape(len(value), -1), dim=1)
    return lengths


def rotation_path(model: Model, graph: Graph, kinds: Mapping[str, Kind], axis: Float[Tensor, " 3"]) -> Path:
    """ρ(g)⁻¹ f(g·x) while one structure turns once about an axis: constant for an equivariant model.

    Args:
        graph: a single structure.
    """
    centre = centres(graph)

    def samples(t: Tensor) -> dict[str, Tensor]:
        element = side_by_side([about(turn(axis, 2 * math.pi * float(s)), centre) for s in t], graph)
        repeated, _ = repeat_structures(graph, torch.zeros(len(t), dtype=torch.int64))
        moved = act_on_graph(element, repeated)
        out = run(model, moved, kinds)
        back = {name: act_on_target(kinds[name], value, element.inverse(), moved) for name, value in out.items()}
        return {name: value.reshape(len(t), -1, *value.shape[1:]) for name, value in back.items()}

    return Path("a rotation", _in_parts(samples, graph))


def equal_axes_path(model: Model, graph: Graph, kinds: Mapping[str, Kind], *, reach: float = 0.04) -> Path | None:
    """f along a stretch of one structure that takes two principal axes of its covariance through equality, at t = ½.

    The pair nearest to each other is stretched and squeezed along itself. Edges are found anew at every point.

    Args:
        graph: a single structure.
        reach: relative difference of the two axes at either end.

    Returns:
        None where there is no such path: fewer than three atoms off a line, or periodicity.
    """
    arms = graph.pos - centres(graph)
    size, axes = torch.linalg.eigh(arms.mT @ arms)
    if bool(graph.pbc.any()) or graph.num_nodes < 3 or float(size[1]) < 1e-3 * float(size[2]):
        return None
    low = 1 if float(size[0]) < 1e-3 * float(size[2]) or size[2] / size[1] < size[1] / size[0] else 0
    mean = (size[low] * size[low + 1]).sqrt()

    def moved(t: Tensor) -> Graph:
        stretch = torch.ones(len(t), 3, dtype=graph.pos.dtype)
        tilt = reach * (2 * t.to(graph.pos) - 1) / 2
        stretch[:, low] = (mean / size[low]).sqrt() * (1 + tilt)
        stretch[:, low + 1] = (mean / size[low + 1]).sqrt() * (1 - tilt)
        pos = torch.einsum("nk,tk,ak->tna", arms @ axes, stretch, axes) + centres(graph)
        return _with_positions(graph, pos)

    def samples(t: Tensor) -> dict[str, Tensor]:
        out = run(model, moved(t), kinds)
        return {name: value.reshape(len(t), -1, *value.shape[1:]) for name, value in out.items()}

    def num_pairs(t: Tensor) -> Tensor:
        graph = moved(t)
        return graph.edge_ptr[graph.ptr].diff()

    return Path("a path through equal axes", _in_parts(samples, graph), num_pairs)


def _in_parts(samples: Callable[[Tensor], dict[str, Tensor]], graph: Graph) -> Callable[[Tensor], dict[str, Tensor]]:
    """The same, with at most MAX_NODES in one call of the model."""
    size = max(1, MAX_NODES // graph.num_nodes)

    def sampled(t: Tensor) -> dict[str, Tensor]:
        parts = [samples(part) for part in torch.split(t, size)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return sampled


def _with_positions(graph: Graph, pos: Float[Tensor, "T N 3"]) -> Graph:
    """Copies of one structure at other positions, with their own edges (the given ones if the cutoff is infinite)."""
    num = len(pos)
    repeated, _ = repeat_structures(graph, torch.zeros(num, dtype=torch.int64))
    if math.isinf(graph.cutoff):
        return repeated.replace(pos=pos.reshape(-1, 3))
    store = GraphStore.from_arrays(
        pos.reshape(-1, 3), repeated.numbers, repeated.ptr, repeated.cell, repeated.pbc, graph.cutoff, graph.pos.dtype
    )
    fields = {"node_scalars": repeated.node_scalars, "node_vectors": repeated.node_vectors}
    return store.batch(torch.arange(num)).replace(**fields)
