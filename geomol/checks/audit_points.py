"""What the audits of models of points share: points as the audit moves them, and edges that hold still."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.checks.audit import layers_of
from geomol.graph import EdgeRule, Graph, graph_by_rule
from geomol.symmetry.audit import Audit, Layers, Model
from geomol.symmetry.audit.lie import centres

REACH = 0.02  # of the largest arm (or in units of length, if that is more): beyond all steps of the Lie derivatives

Edges = tuple[Tensor, Tensor, Tensor]


def bare_graph(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    *,
    numbers: Int[Tensor, " N"] | None = None,
    scalars: Float[Tensor, "N S"] | None = None,
    vectors: Sequence[Float[Tensor, "N V 3"]] = (),
) -> Graph:
    """Points without edges, float64: a model that finds its own edges gets them anew in every pose.

    Args:
        pos, ptr: the points of each structure.
        numbers: atomic numbers, where they have any.
        scalars: what no motion changes.
        vectors: what turns with the points, one after the other.
    """
    told = torch.cat([vector.to(pos.device, torch.float64) for vector in vectors], dim=1) if vectors else None
    graph = graph_by_rule(EdgeRule("none"), pos.double(), ptr, node_scalars=scalars, node_vectors=told)
    return graph if numbers is None else graph.replace(numbers=numbers)


def axes_on_nodes(frame: Float[Tensor, "G 3 3"], ptr: Int[Tensor, " P"]) -> Float[Tensor, "N 3 3"]:
    """The axes of each structure's frame (its columns), a row each, on every node."""
    batch = torch.repeat_interleave(torch.arange(len(frame), device=ptr.device), ptr.diff())
    return frame.mT.to(ptr.device)[batch]


def frame_of(graph: Graph, first: int) -> Float[Tensor, "G 3 3"]:
    """The frame whose axes `axes_on_nodes` has put on the nodes, as vectors number `first` to `first + 2`."""
    assert graph.node_vectors is not None
    return graph.node_vectors[graph.ptr[:-1], first : first + 3].mT


class HeldEdges:
    """Keeps the nearest neighbours of a model where the points have hardly moved.

    Which neighbours are nearest jumps along almost every displacement, so that no difference of two predictions is
    near the derivative, which exists: that with the edges as they are. Poses farther away get their own edges.

    Args:
        model: called once, on `reference`.
        backbone: part of `model`, which gets its graphs from an edge rule.
        reference: the structures of the audit.
    """

    def __init__(self, model: Model, backbone: nn.Module, reference: Graph) -> None:
        self.backbone, self.pos, self.ptr = backbone, reference.pos.detach(), reference.ptr
        arms = (self.pos - centres(reference)[reference.batch]).norm(dim=1)
        self.reach = REACH * max(1.0, float(arms.max()))
        self.found: list[Edges] = []
        handle = backbone.register_forward_pre_hook(self._record)
        try:
            model(reference)
        finally:
            handle.remove()

    @contextmanager
    def around(self, graph: Graph) -> Iterator[None]:
        """Within the block the backbone sees the edges of the reference, if `graph` is near it."""
        if not self._near(graph):
            yield
            return
        left = iter(self.found)

        def give(module: nn.Module, inputs: tuple[Graph]) -> tuple[Graph]:
            index, ptr, shift = next(left)
            return (inputs[0].replace(edge_index=index, edge_ptr=ptr, cell_shift=shift),)

        handle = self.backbone.register_forward_pre_hook(give)
        try:
            yield
        finally:
            handle.remove()

    def _record(self, module: nn.Module, inputs: tuple[Graph]) -> None:
        self.found.append((inputs[0].edge_index, inputs[0].edge_ptr, inputs[0].cell_shift))

    def _near(self, graph: Graph) -> bool:
        same = graph.pos.shape == self.pos.shape and torch.equal(graph.ptr, self.ptr)
        return same and bool((graph.pos.detach() - self.pos).norm(dim=1).max() < self.reach)


def scalar_layers(model: Model, graph: Graph, backbone: nn.Module, outputs: tuple[str, ...]) -> Layers | None:
    """The layers of a backbone for the audit, where each of them gives scalars of nodes or edges and nothing else.

    Of layers that hand on places or vectors too, in a layout of their own, nobody can tell from outside what should
    turn.
    """
    layers: Mapping[str, nn.Module] = layers_of(backbone)
    seen: list[bool] = []
    handles = [
        layer.register_forward_hook(lambda module, inputs, out: seen.append(_are_scalars(out)))
        for layer in layers.values()
    ]
    try:
        model(graph)
    finally:
        for handle in handles:
            handle.remove()
    return Layers(model, layers, outputs=outputs) if seen and all(seen) else None


def _are_scalars(out: object) -> bool:
    """Whether all that a layer gives are tables of channels, and none of them can be of vectors."""
    given = out if isinstance(out, tuple | list) else [out]
    return all(isinstance(item, Tensor) and item.dim() == 2 and item.shape[1] != 3 for item in given)


def without_units(audit: Audit) -> Audit:
    """The audit of points whose lengths have no unit, in which distances are no longer called Å."""

    def rename(text: str) -> str:
        return text.replace(" Å", "")

    rows = [
        dataclasses.replace(r, check=rename(r.check), detail=r.detail.replace("per Å", "per unit")) for r in audit.rows
    ]
    errors = [dataclasses.replace(error, family=rename(error.family)) for error in audit.pictures.errors]
    pictures = dataclasses.replace(audit.pictures, errors=errors)
    return dataclasses.replace(audit, rows=rows, verdict=rename(audit.verdict), pictures=pictures)


def with_remark(audit: Audit, remark: str) -> Audit:
    """The audit with a further sentence of its verdict."""
    return dataclasses.replace(audit, verdict=f"{audit.verdict} {remark}")


POSE_TOLD = "The model is told the pose, which was turned along with the points."
