"""Structures taken apart: every part a structure of its own, and what is said of parts put together again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.graph import EdgeRule, Graph, graph_by_rule
from geomol.models import Features
from geomol.ops import gather_rows, gather_segments, segment_sum, sum_to_rows


@dataclass(frozen=True, eq=False)
class PartGraph:
    """The S parts of G structures, as S structures of M nodes in all; empty parts are left out.

    Attributes:
        seen: what a backbone is shown, each part about its weighted centroid.
        weighted: the same with the positions w (x − t), from which frames are taken; their mean is 0.
        node: row in the whole graph of each node.
        weight: share of that node in the part.
    """

    seen: Graph
    weighted: Graph
    node: Int[Tensor, " M"]
    weight: Float[Tensor, " M"]

    def join(self, out: Features, num_nodes: int) -> Features:
        """Σ_k w_ik y_ik for every node i of the whole."""
        return Features(
            self._sum(out.scalars, num_nodes), None if out.vectors is None else self._sum(out.vectors, num_nodes)
        )

    def _sum(self, values: Tensor, num_nodes: int) -> Tensor:
        weight = self.weight.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
        return sum_to_rows(weight * values, self.node, num_nodes)


def split_graph(
    graph: Graph, weights: Float[Tensor, "N K"], *, contracted: bool = False, rule: EdgeRule | None = None
) -> PartGraph:
    """Takes structures without periodicity apart.

        t_k = Σ_i w_ik x_i / Σ_i w_ik        seen: x_i − t_k, or contracted w_ik (x_i − t_k)

    Args:
        graph: the structures.
        weights: share of each node in each part, not negative.
        contracted: every part shows all nodes of the structure, those of no weight at its centroid; vectors shrink
            alike. Otherwise it shows the nodes that have any weight.
        rule: for edges within each part as it is seen; None: those edges of the graph whose ends are both shown.
    """
    weights = weights.to(graph.pos.dtype)
    num_parts = weights.shape[1]
    member = weights.detach() > 0
    if contracted:
        member = (segment_sum(member.to(weights.dtype), graph.ptr) > 0)[graph.batch]
    node, part = member.nonzero(as_tuple=True)
    owner = graph.batch[node] * num_parts + part
    order = torch.argsort(owner, stable=True)
    node, part = node[order], part[order]
    _, batch, counts = torch.unique_consecutive(owner[order], return_inverse=True, return_counts=True)
    ptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    structure = graph.batch[node[ptr[:-1]]]
    weight, pos = weights[node, part], gather_rows(graph.pos, node)
    centre = segment_sum(weight[:, None] * pos, ptr) / segment_sum(weight, ptr)[:, None]
    local = pos - gather_segments(centre, batch, ptr)
    weighted = weight[:, None] * local
    vectors = None if graph.node_vectors is None else gather_rows(graph.node_vectors, node)
    if contracted and vectors is not None:
        vectors = weight.to(vectors.dtype)[:, None, None] * vectors
    changes: dict[str, object] = {
        "pos": weighted if contracted else local,
        "numbers": graph.numbers[node],
        "cell": gather_rows(graph.cell, structure),
        "pbc": graph.pbc[structure],
        "batch": batch,
        "ptr": ptr,
        "node_scalars": None if graph.node_scalars is None else gather_rows(graph.node_scalars, node),
        "node_vectors": vectors,
    }
    changes |= _edges_inside(graph, member, node, part) if rule is None else _edges_by_rule(rule, changes["pos"], ptr)
    seen = graph.replace(**changes)
    return PartGraph(seen, seen if contracted else seen.replace(pos=weighted), node, weight)


def _edges_inside(
    graph: Graph, member: Bool[Tensor, "N K"], node: Int[Tensor, " M"], part: Int[Tensor, " M"]
) -> dict[str, object]:
    """The edges of which a part shows both ends, once for each such part."""
    row = torch.full(member.shape, -1, dtype=torch.int64, device=graph.device)
    row[node, part] = torch.arange(len(node), device=graph.device)
    edge, of = (member[graph.src] & member[graph.dst]).nonzero(as_tuple=True)
    src, dst = row[graph.src[edge], of], row[graph.dst[edge], of]
    order = torch.argsort(dst, stable=True)
    degrees = torch.bincount(dst, minlength=len(node))
    return {
        "edge_index": torch.stack([src, dst])[:, order],
        "edge_ptr": torch.nn.functional.pad(degrees.cumsum(0), (1, 0)),
        "cell_shift": graph.cell_shift[edge[order]],
    }


def _edges_by_rule(rule: EdgeRule, pos: object, ptr: Int[Tensor, " P"]) -> dict[str, object]:
    assert isinstance(pos, Tensor)
    found = graph_by_rule(rule, pos, ptr)
    return {key: getattr(found, key) for key in ("edge_index", "edge_ptr", "cell_shift", "cutoff")}
