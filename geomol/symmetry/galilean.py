"""Galilean symmetry: a system that drifts as a whole does the same as one at rest."""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
from torch import nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import Features, Symmetry
from geomol.ops import segment_mean
from geomol.symmetry.poses import Poses, Symmetriser, centroids, rest_pose


class Galilean(Symmetriser):
    """φ(x, v) = f(x, v − v̄) + T v̄: the backbone sees velocities relative to their mean, and the drift is added back.

    For displacements over a time T of isolated particles of equal mass. The centre of mass of such a system moves
    uniformly (Newton's first law), which `conserve` builds in too: the mean displacement is T v̄ exactly. Positions are
    taken from the centroid, so that absolute coordinates bring back no origin.

    Symmetry: boosts and translations, exactly; rotations as the backbone.

    Args:
        backbone: see `Symmetriser`; the first of its vectors is the displacement, the first of its inputs the velocity.
        horizon: T, in the units of the data.
        conserve: take the mean off the displacements of the backbone.

    Raises:
        ConfigError: at call, a graph without velocities or a backbone without vectors.
    """

    def __init__(self, backbone: nn.Module, *, horizon: float = 1.0, conserve: bool = True) -> None:
        super().__init__(backbone)
        self.horizon, self.conserve = horizon, conserve
        self.config = {"horizon": horizon, "conserve": conserve}
        inner = cast(Symmetry, backbone.symmetry)
        group = {"1": "T(3)", "O(3)": "E(3)", "SO(3)": "SE(3)"}.get(inner.group, inner.group)
        self.symmetry = dataclasses.replace(inner, group=group, separable=False)

    def poses(self, graph: Graph) -> Poses:
        """One for each structure: its own axes, at its centroid."""
        return rest_pose(graph)

    def forward(self, graph: Graph) -> Features:
        if graph.node_vectors is None:
            raise ConfigError("a Galilean model needs velocities", expected="node_vectors", got="none")
        velocity = graph.node_vectors[:, 0]
        drift = segment_mean(velocity, graph.ptr)[graph.batch]
        still = (velocity - drift)[:, None]
        # turning nothing, it needs no copy of the structures
        pos = graph.pos - centroids(graph)[graph.batch]
        seen = graph.replace(pos=pos, node_vectors=torch.cat([still, graph.node_vectors[:, 1:]], dim=1))
        out = cast(Features, self.backbone(seen))
        if out.vectors is None:
            raise ConfigError("a Galilean model gives displacements", expected="out_vectors >= 1", got="no vectors")
        step = out.vectors[:, 0]
        if self.conserve:
            step = step - segment_mean(step, graph.ptr)[graph.batch]
        step = step + self.horizon * drift.to(step.dtype)
        return Features(out.scalars, torch.cat([step[:, None], out.vectors[:, 1:]], dim=1))
