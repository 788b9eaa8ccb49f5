"""What a pose network takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import Graph
from geomol.ops import segment_mean


@dataclass(frozen=True, eq=False)
class PoseVectors:
    """What a pose network says of each structure.

    Attributes:
        axes: three equivariant vectors as columns, not orthogonal yet.
        shift: equivariant vector from the centroid to a learned origin, Å.
        scores: invariant number per node, by which nodes can be sorted.
    """

    axes: Float[Tensor, "G 3 3"]
    shift: Float[Tensor, "G 3"] | None = None
    scores: Float[Tensor, " N"] | None = None


class PoseNetwork(nn.Module, ABC):
    """A small equivariant network that looks at a structure and says how it lies.

    Attributes:
        reflections: equivariant under O(3), or (with cross products) under rotations only.
        smooth: continuously differentiable where a pair enters or leaves a cutoff.
        num_noise: vectors of noise that it reads per node.
        has_shift: whether it gives an origin.
        has_scores: whether it gives scores.
    """

    reflections: bool = True
    smooth: bool = False
    num_noise: int = 0
    has_shift: bool = False
    has_scores: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, object] = {}

    @abstractmethod
    def forward(self, graph: Graph, noise: Float[Tensor, "N V 3"] | None = None) -> PoseVectors:
        """The vectors of each structure.

        Args:
            graph: the structures.
            noise: `num_noise` random vectors per node, isotropic, on which the vectors are conditioned.
        """

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return next(self.parameters()).dtype


def plain_config(arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a constructor (its `locals()`) as a configuration that JSON can hold."""
    kept = {key: value for key, value in arguments.items() if key not in ("self", "__class__", "backbone")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}


def centred(graph: Graph, dtype: torch.dtype) -> Float[Tensor, "N 3"]:
    """Positions from the centroid of their structure, Å, formed in the precision of the positions.

    Raises:
        ModelDomainError: a periodic structure, which has no centroid of its own.
    """
    if graph.is_periodic:
        raise ModelDomainError(
            "this pose network reads positions from the centroid, which a periodic structure does not have",
            remedy='use the pose network "egnn_vectors"',
        )
    return (graph.pos - segment_mean(graph.pos, graph.ptr)[graph.batch]).to(dtype)


def node_vectors(graph: Graph, num: int, dtype: torch.dtype) -> Float[Tensor, "N V 3"]:
    """The vector inputs of the graph.

    Raises:
        ConfigError: the graph carries another number of them.
    """
    got = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
    if got != num:
        raise ConfigError("`node_vectors` does not fit the pose network", expected=f"{num} vectors", got=str(got))
    if graph.node_vectors is None:
        return graph.pos.new_zeros(graph.num_nodes, 0, 3, dtype=dtype)
    return graph.node_vectors.to(dtype)
