"""The symmetry audit of a label model: classes of clouds and parts of points must not depend on the pose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from geomol.checks.audit import fixed, off_the_grid, reseeder
from geomol.checks.audit_points import (
    POSE_TOLD,
    HeldEdges,
    axes_on_nodes,
    bare_graph,
    frame_of,
    scalar_layers,
    with_remark,
    without_units,
)
from geomol.checks.place import asked_there
from geomol.errors import InputError
from geomol.graph import Graph
from geomol.labels import LabelModel, PointClouds
from geomol.symmetry.actions import Kind
from geomol.symmetry.audit import Audit, Effort, audit


def _silent(fraction: float, text: str) -> None:
    return None


@dataclass(frozen=True, eq=False)
class _Moved:
    """Clouds as `LabelModel` reads them; their classes are kept from it, which would hide logits behind −∞."""

    pos: Tensor
    ptr: Tensor
    normals: Tensor | None
    label: Tensor | None
    frame: Tensor


class LabelOutputs:
    """Probabilities and logits of a label model, for a graph that holds clouds as `graph` makes them."""

    def __init__(self, model: LabelModel, clouds: PointClouds) -> None:
        if model.normals != "none" and clouds.normals is None:
            raise InputError("these clouds have no normals", expected="normals, which the model reads")
        self.model = model
        self.held: HeldEdges | None = None
        normals = [] if clouds.normals is None else [clouds.normals[:, None]]
        self.num_normals = len(normals)
        self.reference = off_the_grid(
            bare_graph(clouds.pos, clouds.ptr, vectors=[*normals, axes_on_nodes(clouds.frame, clouds.ptr)])
        )
        if model.rule.name == "knn":
            self.held = HeldEdges(self, model.backbone, self.reference)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Invariants of each cloud or point."""
        kind = Kind("scalar", "structure" if self.model.level == "cloud" else "node")
        return {"probabilities": kind, "logits": kind}

    def __call__(self, graph: Graph) -> dict[str, Tensor]:
        if self.held is None:
            return asked_there(self.model, self._outputs, graph)
        with self.held.around(graph):
            return asked_there(self.model, self._outputs, graph)

    def _outputs(self, graph: Graph) -> dict[str, Tensor]:
        logits = self.model(self._clouds(graph))
        return {"probabilities": logits.softmax(dim=1), "logits": logits}

    def _clouds(self, graph: Graph) -> PointClouds:
        normals = None if self.num_normals == 0 or graph.node_vectors is None else graph.node_vectors[:, 0]
        return _Moved(graph.pos, graph.ptr, normals, None, frame_of(graph, self.num_normals))


def audit_labels(
    model: LabelModel,
    clouds: PointClouds,
    *,
    effort: Effort | None = None,
    truth: Int[Tensor, " R"] | None = None,
    on_progress: Callable[[float, str], None] = _silent,
) -> Audit:
    """Hold a label model to the symmetry that it claims, by its probabilities and the logits behind them.

    Normals turn with the clouds, and so does the frame of their pose; edges are found anew in every pose. Probabilities
    hide what logits show where a class is beyond doubt.

    Args:
        model: to be audited.
        clouds: typical of what it is used on, with as many points; a handful is enough.
        effort: how much to measure.
        truth: class of each cloud, or part of each point, for orbits of the error.
        on_progress: called with the part that is done and what is being done.

    Raises:
        InputError: clouds without the normals that the model reads.
    """
    with fixed(model):
        outputs = LabelOutputs(model, clouds)
        graph = outputs.reference
        labels = None
        if truth is not None:
            labels = {"probabilities": torch.nn.functional.one_hot(truth, len(model.names)).to(graph.pos)}
        found = audit(
            outputs,
            graph,
            outputs.kinds,
            claim=model.symmetry,
            effort=effort,
            labels=labels,
            layers=scalar_layers(outputs, graph, model.backbone, ("logits",)),
            reseed=reseeder(model) if model.symmetry.stochastic else None,
            precision=model.dtype,
            on_progress=on_progress,
        )
    found = without_units(found)
    return with_remark(found, POSE_TOLD) if model.frame else found
