"""What the audit asks of a model, and how it runs one on many moved copies of some structures at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.errors import GeomolError
from geomol.graph import Graph
from geomol.graph.repeat import repeat_structures
from geomol.ops import segment_mean
from geomol.symmetry.actions import Kind, act_on_graph, act_on_target
from geomol.symmetry.groups import Element

Model = Callable[[Graph], Mapping[str, Tensor]]
"""Anything that gives named outputs for a graph, one row per node or structure; see `Kind` for how these transform."""

MAX_NODES = 4096  # in one call of the model, so that memory stays bounded whatever the number of elements


def run(model: Model, graph: Graph, kinds: Mapping[str, Kind]) -> dict[str, Tensor]:
    """The outputs named in `kinds`, detached.

    Raises:
        GeomolError: an output is missing or has the wrong number of rows.
    """
    out = model(graph)
    found = {}
    for name, kind in kinds.items():
        rows = graph.num_nodes if kind.per == "node" else graph.num_graphs
        got = "nothing" if name not in out else str(tuple(out[name].shape))
        if name not in out or out[name].shape[:1] != (rows,):
            raise GeomolError(f'the model gives no "{name}" per {kind.per}', expected=f"{rows} rows", got=got)
        found[name] = out[name].detach()
    return found


def pulled_back(
    model: Model,
    graph: Graph,
    kinds: Mapping[str, Kind],
    elements: Sequence[Element],
    *,
    max_nodes: int = MAX_NODES,
) -> dict[str, Tensor]:
    """ρ(g)⁻¹ f(g·x) for every element g: equal to f(x) for an equivariant model.

    The norm of its difference from f(x) is that of f(g·x) − ρ(g) f(x), since ρ(g) keeps distances.

    Returns:
        For each output (M, rows, …), M elements in their order.
    """
    size = max(1, max_nodes // max(graph.num_nodes, 1))
    parts: dict[str, list[Tensor]] = {name: [] for name in kinds}
    for start in range(0, len(elements), size):
        chosen = elements[start : start + size]
        copies = torch.arange(graph.num_graphs, device=graph.device).repeat(len(chosen))
        repeated, _ = repeat_structures(graph, copies)
        element = side_by_side(chosen, graph)
        moved = act_on_graph(element, repeated)
        for name, value in run(model, moved, kinds).items():
            back = act_on_target(kinds[name], value, element.inverse(), moved)
            parts[name].append(back.reshape(len(chosen), -1, *value.shape[1:]))
    return {name: torch.cat(values) for name, values in parts.items()}


def side_by_side(elements: Sequence[Element], graph: Graph) -> Element:
    """One element for as many copies of `graph`, one after the other, as there are elements."""
    num, nodes = graph.num_graphs, graph.num_nodes
    rotation = torch.cat([e.rotation.to(graph.pos).expand(num, 3, 3) for e in elements])
    translation = torch.cat([e.translation.to(graph.pos).expand(num, 3) for e in elements])
    permutation = images = None
    if any(e.permutation is not None for e in elements):
        every = torch.arange(nodes, device=graph.device)
        orders = [every if e.permutation is None else e.permutation for e in elements]
        permutation = torch.cat([order + k * nodes for k, order in enumerate(orders)])
    if any(e.images is not None for e in elements):
        none = torch.zeros(nodes, 3, dtype=torch.int64, device=graph.device)
        images = torch.cat([none if e.images is None else e.images for e in elements])
    return Element(rotation, translation, permutation, images)


def entry_norms(kind: Kind, value: Float[Tensor, "M R *F"]) -> Float[Tensor, "M R"]:
    """Length of each row: Euclidean over everything that belongs to one node or structure."""
    norms: Tensor = torch.linalg.vector_norm(value.reshape(*value.shape[:2], -1), dim=-1)
    return norms


def sample_norms(kind: Kind, value: Float[Tensor, "M R *F"], graph: Graph) -> Float[Tensor, "M S"]:
    """Length per structure: of its row, or the root mean square over its nodes."""
    norms = entry_norms(kind, value)
    if kind.per == "structure":
        return norms
    return segment_mean(norms.square().T.contiguous(), graph.ptr).sqrt().T


def scale_of(kind: Kind, value: Float[Tensor, "R *F"], graph: Graph) -> float:
    """Mean length of an output over the structures: what errors are relative to."""
    return float(sample_norms(kind, value[None], graph).mean())
