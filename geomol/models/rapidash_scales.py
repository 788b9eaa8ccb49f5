"""The scales of a network on points: at each, fewer points, with edges of their own kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import Graph, complete_graph, edge_vectors
from geomol.graph.farthest_points import OUTERMOST, farthest_points, kept_ptr
from geomol.graph.knn import knn, pooling_edges, radius_edges
from geomol.ops import Edges, gather_receivers, gather_senders

T = TypeVar("T")
FLAT = 1e-6  # Å; from rounding alone, z differs by less


class EdgeKind(NamedTuple):
    """One of "graph" (the edges of the graph given), "fc" (all pairs), "knn-k" and "radius-r"."""

    name: str
    number: int
    cutoff: float


def parse_edges(kind: str, cutoff: float) -> EdgeKind:
    """What a kind of edges means; `cutoff` is that of the graph.

    Raises:
        ConfigError: no such kind.
    """
    name, _, size = kind.partition("-")
    if kind == "graph":
        return EdgeKind(name, 0, cutoff)
    if kind == "fc":
        return EdgeKind(name, 0, math.inf)
    if name == "knn" and size.isdigit() and int(size) >= 1:
        return EdgeKind(name, int(size), math.inf)
    try:
        radius = float(size) if name == "radius" else math.nan
    except ValueError:
        radius = math.nan
    if not 0 < radius < math.inf:
        raise ConfigError(f'unknown edges "{kind}"', expected='"graph", "fc", "knn-16" or "radius-0.5"')
    return EdgeKind(name, 0, radius)


def per_scale(name: str, given: T | Sequence[T], num: int) -> list[T]:
    """One setting for each scale, or the same for all.

    Raises:
        ConfigError: another number of them.
    """
    found = [given] * num if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    if len(found) != num:
        raise ConfigError(f"`{name}` does not fit `ratios`", expected=f"one, or {num} in a list", got=str(found))
    return found


def check_flat(scales: Sequence[Scale]) -> None:
    """Refuses edges that leave the plane z = constant.

    Raises:
        ModelDomainError: some edge has a component along z.
    """
    links = (link for scale in scales for link in (scale.within, scale.down) if link is not None)
    if any(bool((link.vec[:, 2].abs() > FLAT).any()) for link in links):
        raise ModelDomainError(
            "points outside the plane", expected="one z for each structure", remedy="choose a grid on the sphere"
        )


def is_local(kind: str, cutoff: float) -> bool:
    """Whether points beyond some distance never matter to each other."""
    return math.isfinite(parse_edges(kind, cutoff).cutoff)


@dataclass(frozen=True, eq=False)
class Linked:
    """Edges with their vectors.

    Attributes:
        edges: between the points of one scale, or from one scale to the next.
        vec: sender − receiver, Å.
        row: a row in the graph of the structure of each edge (that of the finer end).
        cutoff: beyond which there are no edges, Å.
    """

    edges: Edges
    vec: Float[Tensor, "E 3"]
    row: Int[Tensor, " E"]
    cutoff: float = math.inf


@dataclass(frozen=True, eq=False)
class Scale:
    """Points of one scale.

    Attributes:
        node: row of each point in the graph.
        within: edges between the points; None where no layer would use them.
        down: every point to the nearest one of the next scale; None at the last.
        up: the same edges, flipped.
        nearest: point of the next scale that each point belongs to.
    """

    node: Int[Tensor, " M"]
    within: Linked | None
    down: Linked | None = None
    up: Linked | None = None
    nearest: Int[Tensor, " M"] | None = None


def build_scales(
    graph: Graph,
    kinds: Sequence[str],
    ratios: Sequence[float],
    cutoff: float,
    dtype: torch.dtype,
    depths: Sequence[int],
) -> list[Scale]:
    """All scales of a graph; vectors are formed in the precision of the positions.

    Scales without layers (`depths` 0) get no edges of their own: often the finest, which would have the most.

    Raises:
        ModelDomainError: points of a periodic structure, unless only its own edges are read.
    """
    if graph.is_periodic and list(kinds) != ["graph"]:
        raise ModelDomainError(
            "scales and edges found by the model have no periodic form",
            got=str(list(kinds)),
            remedy='use edges="graph" and one scale',
        )
    node = torch.arange(graph.num_nodes, device=graph.device)
    pos, ptr, scales = graph.pos, graph.ptr, []
    for number, kind in enumerate(kinds):
        parsed = parse_edges(kind, cutoff)
        within = None
        if depths[number] and parsed.name == "graph":
            within = Linked(graph, edge_vectors(graph, dtype), graph.src, cutoff)
        elif depths[number]:
            edges = _edges_within(parsed, pos.detach(), ptr)
            within = Linked(edges, _vectors(edges, pos, pos, dtype), node[edges.src], parsed.cutoff)
        if number == len(ratios):
            scales.append(Scale(node, within))
            break
        # the first point is the outermost, so that the choice depends on distances alone
        kept = farthest_points(pos.detach(), ptr, ratio=ratios[number], start=OUTERMOST)
        coarse, coarse_ptr = pos.index_select(0, kept), kept_ptr(ptr, ratio=ratios[number])
        down = pooling_edges(pos.detach(), ptr, coarse.detach(), coarse_ptr)
        up = down.flipped()
        scales.append(
            Scale(
                node,
                within,
                Linked(down, _vectors(down, pos, coarse, dtype), node[down.src]),
                Linked(up, _vectors(up, coarse, pos, dtype), node[up.dst]),
                up.src,
            )
        )
        node, pos, ptr = node[kept], coarse, coarse_ptr
    return scales


def merged_into(scales: Sequence[Scale]) -> Int[Tensor, " N"]:
    """The coarsest point that each point of the graph was merged into, step by step."""
    owner = torch.arange(len(scales[-1].node), device=scales[-1].node.device)
    for scale in reversed(scales[:-1]):
        assert scale.nearest is not None
        owner = owner[scale.nearest]
    return owner


def _edges_within(kind: EdgeKind, pos: Float[Tensor, "N 3"], ptr: Int[Tensor, " P"]) -> Edges:
    """Edges between different points of each structure."""
    if kind.name == "fc":
        return complete_graph(pos, ptr.new_zeros(len(pos)), ptr)
    if kind.name == "knn":
        return knn(pos, ptr, kind.number)
    return radius_edges(pos, ptr, kind.cutoff)


def _vectors(
    edges: Edges, senders: Float[Tensor, "N 3"], receivers: Float[Tensor, "M 3"], dtype: torch.dtype
) -> Float[Tensor, "E 3"]:
    return (gather_senders(senders, edges) - gather_receivers(receivers, edges)).to(dtype)
