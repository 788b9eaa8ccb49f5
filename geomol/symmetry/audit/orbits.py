"""Orbits: the error of a model on one structure in many poses, M_x(g) = m(f(g·x), ρ(g) y).

Source: "NERO: non-equivariance revealed on orbits" (arXiv:2305.19889), from its idea; here the orbits are those of
motions of space. A row that is flat belongs to a structure on which the model is equivariant. Where there are no labels
y, their place is taken by the consensus c(x) = mean over g of ρ(g)⁻¹ f(g·x).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.geometry import fibonacci_grid
from geomol.graph import Graph
from geomol.symmetry.actions import Kind, about
from geomol.symmetry.audit.lie import centres
from geomol.symmetry.audit.model import Model, pulled_back, sample_norms
from geomol.symmetry.groups import Element, rotation_generator

MAP_ANGLE = math.pi / 2
"""Rotations of the sphere map: a quarter turn about every axis. A model that singles out a direction in space is right
about the turns around it alone."""


@dataclass(frozen=True, eq=False)
class Orbits:
    """Errors of one output on S orbits at M elements.

    Attributes:
        output: name.
        reference: "labels" or "consensus".
        table: (S, M) errors, in the unit of the output.
        consensus: the mean of ρ(g)⁻¹ f(g·x), one row per node or structure.
        spread: (S,) root mean square distance of ρ(g)⁻¹ f(g·x) from the consensus.
    """

    output: str
    reference: str
    table: Float[Tensor, "S M"]
    consensus: Float[Tensor, "R *F"]
    spread: Float[Tensor, " S"]

    def aggregate(self) -> Float[Tensor, " M"]:
        """Mean over structures: the error of the data set in each pose."""
        return self.table.mean(0)

    def summary(self) -> dict[str, float | int]:
        """Mean, standard deviation over poses (of the aggregate, and within orbits), worst pose, (max − min) / mean."""
        aggregate = self.aggregate()
        mean = float(aggregate.mean())
        width = float(aggregate.max() - aggregate.min())
        return {
            "mean": mean,
            "std_over_poses": float(aggregate.std(correction=0)),
            "std_within_orbits": float(self.table.std(dim=1, correction=0).mean()),
            "worst_pose": int(aggregate.argmax()),
            "range_over_mean": width / mean if mean > 0 else 0.0,
        }


def orbit(
    model: Model,
    graph: Graph,
    kinds: Mapping[str, Kind],
    elements: Sequence[Element],
    *,
    labels: Mapping[str, Tensor] | None = None,
) -> dict[str, Orbits]:
    """The orbit table of every output.

    Args:
        model, graph, kinds: what to run, on which structures, and how the outputs transform.
        elements: the poses, which act on all structures alike.
        labels: what the outputs should be, in the pose in which `graph` has the structures; where an output has none,
            errors are distances from the consensus.
    """
    labels = {} if labels is None else labels
    back = pulled_back(model, graph, kinds, elements)
    found = {}
    for name, kind in kinds.items():
        consensus = back[name].mean(0)
        spread = sample_norms(kind, back[name] - consensus, graph)  # (M, S)
        known = name in labels
        table = sample_norms(kind, back[name] - labels[name].to(consensus), graph) if known else spread
        rms = spread.square().mean(0).sqrt()
        found[name] = Orbits(name, "labels" if known else "consensus", table.T, consensus, rms)
    return found


def principal_components(table: Float[Tensor, "S M"], num: int = 2) -> tuple[Float[Tensor, "S C"], Float[Tensor, " C"]]:
    """PCA of the orbits as vectors: coordinates of the samples, and the variance along each component.

    Samples that fail in the same poses lie together; those of an equivariant model coincide once each orbit's mean is
    taken off, which is done first.
    """
    shape = table - table.mean(1, keepdim=True)
    centred = shape - shape.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    num = min(num, len(s))
    return u[:, :num] * s[:num], s[:num].square() / len(table)


def sphere_axes(num: int) -> Float[Tensor, "{num} 3"]:
    """Nearly even directions over the whole sphere."""
    return fibonacci_grid(num)


def sphere_elements(graph: Graph, axes: Float[Tensor, "M 3"], *, angle: float = MAP_ANGLE) -> list[Element]:
    """A turn by `angle` about each axis, for a map of errors over the sphere of axes."""
    return [about(turn(axis, angle), centres(graph)) for axis in axes]


def circle_elements(graph: Graph, axis: Float[Tensor, " 3"], num: int) -> list[Element]:
    """Turns by 0, 360°/num, … about one axis."""
    return [about(turn(axis, 2 * math.pi * k / num), centres(graph)) for k in range(num)]


def turn(axis: Float[Tensor, " 3"], angle: float) -> Float[Tensor, "3 3"]:
    """The rotation by `angle` (radians) about an axis of any length."""
    return rotation_generator(axis, "").element(angle).rotation
