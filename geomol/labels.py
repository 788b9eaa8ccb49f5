"""Classes of point clouds, and parts of their points: the model of classification and segmentation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geomol.errors import ConfigError, InputError
from geomol.graph import Graph, graph_by_rule, parse_edge_rule
from geomol.models import PooledHead, Symmetry
from geomol.ops import segment_max, segment_mean
from geomol.symmetry import OnBackbone, backbone_config, build_backbone

LEVELS = ("cloud", "point")
POOLINGS = {"mean": segment_mean, "max": segment_max}
NORMALS = ("none", "vectors", "scalars")


class PointClouds(Protocol):
    """What the model reads of a batch of clouds, see `geomol.data.CloudBatch`."""

    @property
    def pos(self) -> Tensor: ...
    @property
    def ptr(self) -> Tensor: ...
    @property
    def normals(self) -> Tensor | None: ...
    @property
    def label(self) -> Tensor | None: ...
    @property
    def frame(self) -> Tensor: ...


class LabelModel(OnBackbone):
    """Logits of the class of each cloud, or of the part of each point.

    A cloud becomes a graph: edges by a rule, normals and the axes of its pose as vectors on every node, or the normals
    as three scalars. Coordinates are the backbone's own matter. Features of a cloud are pooled and read out by a
    network of one hidden layer; for parts, it reads each point's features beside the pooled ones, and where the class
    of the cloud is told and the parts of each class are known, all others get −∞.

    Symmetry: what the backbone leaves. Normals as scalars know the axes of the lab: translations alone survive. The
    frame turns with the cloud, so that formally it costs nothing; whoever does not know the pose cannot give it. With
    nearest neighbours nothing is continuous. Pooling makes far parts of a cloud feel each other.

    Args:
        backbone: any backbone of `geomol.symmetry.BACKBONES` that gives `features` scalars per node.
        class_names: of clouds.
        part_names: of points, for level "point".
        class_parts: the parts that each class may have; empty: any.
        level: "cloud" or "point".
        pooling: "mean" or "max".
        edges: "knn-16", "radius-0.2", "fc", or "none" for backbones that find their own or read none.
        normals: how they enter: "none", "vectors" or "scalars".
        frame: three vectors per node, the axes of the source's pose.
        features: scalars per node that the backbone gives.
        num_points: of each cloud, that it was trained with and is judged with; None: all.
        reach: how far the farthest point of a typical cloud of training is from the mean of its points. Says at which
            scale to ask; nothing is scaled here.

    Raises:
        ConfigError: unknown settings, no names, or at call a backbone with other features.
        InputError: at call, clouds without the normals that are to enter.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        class_names: Sequence[str],
        part_names: Sequence[str] = (),
        class_parts: Sequence[Sequence[int]] = (),
        level: str = "cloud",
        pooling: str = "mean",
        edges: str = "knn-16",
        normals: str = "none",
        frame: bool = False,
        features: int = 64,
        num_points: int | None = None,
        reach: float = 1.0,
    ) -> None:
        super().__init__(backbone)
        for key, value, known in (
            ("level", level, LEVELS),
            ("pooling", pooling, POOLINGS),
            ("normals", normals, NORMALS),
        ):
            if value not in known:
                raise ConfigError(f"unknown {key}", expected=", ".join(known), got=str(value))
        if not 0 < reach < math.inf:
            raise ConfigError("reach out of range", expected="a positive distance", got=str(reach))
        names = class_names if level == "cloud" else part_names
        if len(names) < 2:
            raise ConfigError("there is nothing to tell apart", expected=f"two names of a {level} or more")
        self.class_names, self.part_names = tuple(class_names), tuple(part_names)
        self.class_parts = tuple(tuple(int(part) for part in parts) for parts in class_parts)
        self.level, self.pooling, self.edges, self.normals, self.frame = level, pooling, edges, normals, frame
        self.features, self.num_points, self.reach = features, num_points, float(reach)
        self.rule = parse_edge_rule(edges)
        self.head: nn.Module
        if level == "cloud":
            self.head = PooledHead(channels=features, out_scalars=len(names), hidden=features, pool=pooling)  # type: ignore[arg-type]
        else:
            layers = nn.Linear(2 * features, features), nn.GELU(), nn.Linear(features, len(names))
            self.head = nn.Sequential(*layers)
        self.register_buffer(
            "allowed", _allowed(self.class_parts, len(self.class_names), len(part_names)), persistent=False
        )

    allowed: Tensor | None
    elements = (0,)  # of points, which have none

    @property
    def symmetry(self) -> Symmetry:
        """See above; holds for the logits."""
        inner = super().symmetry
        changes: dict[str, object] = {"separable": False}
        if self.normals == "scalars":
            group = "T(3)" if inner.group in ("E(3)", "SE(3)", "SE(2)", "T(3)") else "1"
            changes |= {"group": group, "exact": True}
        jumps = self.rule.name == "knn"
        if self.rule.name == "radius":  # a pair must have lost its weight before it is cut off
            jumps = not (inner.smooth and self.cutoff <= self.rule.size)
        changes["continuous"] = inner.continuous and not jumps
        changes["smooth"] = inner.smooth and not jumps and self.pooling != "max"
        return dataclasses.replace(inner, **changes)  # type: ignore[arg-type]

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns of the logits stand for."""
        return self.class_names if self.level == "cloud" else self.part_names

    @property
    def config(self) -> dict[str, object]:
        """Everything `from_config` needs to build an untrained copy."""
        return {
            "backbone": backbone_config(self.backbone),
            "class_names": list(self.class_names),
            "part_names": list(self.part_names),
            "class_parts": [list(parts) for parts in self.class_parts],
            **{key: getattr(self, key) for key in ("level", "pooling", "edges", "normals", "frame")},
            "features": self.features,
            "num_points": self.num_points,
            "reach": self.reach,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Builds an untrained model from `config`.

        Raises:
            ConfigError: unknown backbone or arguments.
        """
        rest = dict(config)
        backbone = build_backbone(rest.pop("backbone"))  # type: ignore[arg-type]
        return cls(backbone, **rest)  # type: ignore[arg-type]

    def graph(self, clouds: PointClouds) -> Graph:
        """The clouds as the backbone sees them."""
        pos, ptr, scalars, vectors = clouds.pos, clouds.ptr, None, []
        if self.normals != "none":
            if clouds.normals is None:
                raise InputError(
                    "these clouds have no normals",
                    expected="normals, which the model reads",
                    remedy="geomol.geometry.pca_normals estimates them; files of points hold x y z nx ny nz",
                )
            if self.normals == "scalars":
                scalars = clouds.normals
            else:
                vectors.append(clouds.normals[:, None])
        if self.frame:
            batch = torch.repeat_interleave(torch.arange(len(ptr) - 1, device=ptr.device), ptr.diff())
            vectors.append(clouds.frame.mT[batch].to(pos))  # rows are now the axes
        node_vectors = torch.cat(vectors, dim=1) if vectors else None
        return graph_by_rule(self.rule, pos, ptr, node_scalars=scalars, node_vectors=node_vectors)

    def forward(self, clouds: PointClouds) -> Float[Tensor, "R K"]:
        """Logits, a row for each cloud or each point."""
        found = self.backbone(self.graph(clouds))
        if found.scalars.shape[1] != self.features:
            raise ConfigError(
                "the backbone gives other features than the model reads",
                expected=f"out_scalars={self.features}",
                got=str(found.scalars.shape[1]),
            )
        if self.level == "cloud":
            logits: Tensor = self.head(found, clouds.ptr)[0]
            return logits
        pooled = POOLINGS[self.pooling](found.scalars, clouds.ptr)
        batch = torch.repeat_interleave(torch.arange(len(pooled), device=clouds.ptr.device), clouds.ptr.diff())
        logits = self.head(torch.cat([found.scalars, pooled[batch]], dim=1))
        if self.allowed is None or clouds.label is None:
            return logits
        return logits.masked_fill(~self.allowed[clouds.label[batch]], float("-inf"))


def _allowed(class_parts: Sequence[Sequence[int]], num_classes: int, num_parts: int) -> Bool[Tensor, "C P"] | None:
    """Table of which class may have which part; None where that is not known."""
    if not class_parts:
        return None
    if len(class_parts) != num_classes or any(not 0 <= part < num_parts for parts in class_parts for part in parts):
        raise ConfigError("parts of classes that do not fit the names", expected=f"{num_classes} rows of parts")
    table = torch.zeros(num_classes, num_parts, dtype=torch.bool)
    for row, parts in enumerate(class_parts):
        table[row, list(parts)] = True
    return table
