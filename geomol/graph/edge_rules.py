"""Rules for which points of a cloud are joined, in a word, and the graphs that follow from them."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError
from geomol.graph.cloud_graph import graph_from_edges
from geomol.graph.complete import complete_graph
from geomol.graph.knn import knn, radius_edges
from geomol.graph.point_edges import PointEdges
from geomol.graph.record import Graph


class EdgeRule(NamedTuple):
    """Which points are joined: "none", "fc" (all pairs), "knn" with a number, or "radius"."""

    name: str
    size: float = 0.0

    @property
    def cutoff(self) -> float:
        """Beyond which there are no edges, whatever the points."""
        return self.size if self.name == "radius" else float("inf")


def parse_edge_rule(text: str) -> EdgeRule:
    """The rule written "none", "fc", "knn-16" or "radius-0.2".

    Raises:
        ConfigError: anything else.
    """
    name, _, size = text.partition("-")
    if text in ("none", "fc"):
        return EdgeRule(text)
    if name == "knn" and size.isdecimal() and int(size) >= 1:
        return EdgeRule(name, int(size))
    try:
        radius = float(size) if name == "radius" else 0.0
    except ValueError:
        radius = 0.0
    if not 0 < radius < float("inf"):
        raise ConfigError(f'unknown edges "{text}"', expected='"knn-16", "radius-0.2", "fc" or "none"')
    return EdgeRule(name, radius)


def graph_by_rule(
    rule: EdgeRule,
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    *,
    node_scalars: Float[Tensor, "N S"] | None = None,
    node_vectors: Float[Tensor, "N V 3"] | None = None,
) -> Graph:
    """Points without periodicity and without elements, joined by a rule; found anew for every set of positions.

    Which edges there are does not change when all points are turned or moved together, but for ties of distance that
    rounding decides. No gradient flows through the choice.
    """
    if rule.name == "fc":
        numbers = ptr.new_zeros(len(pos))
        return complete_graph(pos, numbers, ptr, node_scalars=node_scalars, node_vectors=node_vectors)
    edges = _edges(rule, pos.detach(), ptr)
    return graph_from_edges(pos, ptr, edges, cutoff=rule.cutoff, node_scalars=node_scalars, node_vectors=node_vectors)


def _edges(rule: EdgeRule, pos: Float[Tensor, "N 3"], ptr: Int[Tensor, " P"]) -> PointEdges:
    if rule.name == "knn":
        return knn(pos, ptr, int(rule.size))
    if rule.name == "radius":
        return radius_edges(pos, ptr, rule.size)
    nothing = ptr.new_empty(0)
    return PointEdges(nothing, nothing, ptr.new_zeros(len(pos) + 1), len(pos))
