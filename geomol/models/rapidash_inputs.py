"""What enters Rapidash, as scalars or as vectors, and which symmetry that leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import Graph
from geomol.models.base import Symmetry
from geomol.models.plain_inputs import node_coordinates
from geomol.models.rapidash_attributes import Space
from geomol.models.rapidash_scales import is_local, parse_edges
from geomol.nn import NodeInputs

COORDINATES = ("none", "vectors", "centred_scalars", "scalars")
VECTORS_AS = ("vectors", "scalars")
FRAMES = ("none", "given", "identity")


class RapidashInputs(nn.Module):
    """Scalars (N, num_scalars) and vectors (N, num_vectors, 3) of each node.

    Scalars: one-hot elements, `node_scalars`, and coordinates or vectors that are to enter as three numbers each; a
    constant 1 where there is none of these. Vectors: `node_vectors`, coordinates from the centroid, the frame.

    Args:
        elements, in_scalars, in_vectors, coordinates, vectors_as, frame: see `Rapidash`.
        on_grid: whether there are orientations on which vectors can enter.

    Raises:
        ConfigError: unknown or contradicting settings, or at call a graph that does not fit them.
        ModelDomainError: at call, coordinates of a periodic structure.
    """

    def __init__(
        self,
        elements: Sequence[int],
        in_scalars: int,
        in_vectors: int,
        *,
        coordinates: str,
        vectors_as: str,
        frame: str,
        on_grid: bool,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("coordinates", coordinates, COORDINATES),
            ("vectors_as", vectors_as, VECTORS_AS),
            ("frame", frame, FRAMES),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name}", expected=", ".join(known), got=str(value))
        if frame == "given" and in_vectors < 3:
            raise ConfigError('frame="given" reads the last 3 of in_vectors vectors', got=f"in_vectors={in_vectors}")
        self.in_vectors, self.coordinates, self.frame = in_vectors, coordinates, frame
        raw = in_vectors - 3 * (frame == "given")
        self.num_raw = raw if vectors_as == "scalars" else 0  # vectors that enter as numbers
        self.num_vectors = in_vectors - self.num_raw + (coordinates == "vectors") + 3 * (frame == "identity")
        if self.num_vectors and not on_grid:
            raise ConfigError(
                'orientations="none" carries no vectors',
                got=f'in_vectors={in_vectors}, coordinates="{coordinates}", frame="{frame}"',
                remedy='choose a grid of orientations, or vectors_as="scalars"',
            )
        self.nodes = NodeInputs(elements, in_scalars)
        found = self.nodes.num_features + 3 * self.num_raw + 3 * coordinates.endswith("scalars")
        self.num_scalars = found or 1

    def forward(self, graph: Graph, dtype: torch.dtype) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N V 3"]]:
        got = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
        if got != self.in_vectors:
            raise ConfigError("`node_vectors` does not fit the model", expected=f"{self.in_vectors}", got=str(got))
        given = graph.pos.new_zeros(graph.num_nodes, 0, 3) if graph.node_vectors is None else graph.node_vectors
        raw, vectors = given[:, : self.num_raw].to(dtype), [given[:, self.num_raw :].to(dtype)]
        scalars = []
        if self.nodes.num_features or graph.node_scalars is not None:
            scalars.append(self.nodes(graph, dtype))
        if self.num_raw:
            scalars.append(raw.flatten(1))
        if self.coordinates != "none":
            place = self._coordinates(graph).to(dtype)
            if self.coordinates == "vectors":
                vectors.append(place[:, None])
            else:
                scalars.append(place)
        if self.frame == "identity":
            eye = torch.eye(3, dtype=dtype, device=graph.device)
            vectors.append(eye.expand(graph.num_nodes, 3, 3))
        if not scalars:
            scalars.append(graph.pos.new_ones(graph.num_nodes, 1, dtype=dtype))
        return torch.cat(scalars, dim=1), torch.cat(vectors, dim=1)

    def _coordinates(self, graph: Graph) -> Float[Tensor, "N 3"]:
        if graph.is_periodic:
            raise ModelDomainError(
                "coordinates of nodes mean nothing in a periodic structure",
                got=f'coordinates="{self.coordinates}"',
                remedy='use coordinates="none"',
            )
        return node_coordinates(graph, "absolute" if self.coordinates == "scalars" else "centred")


def breaks_rotation(space: Space, inputs: RapidashInputs) -> bool:
    """Whether kernels or inputs know the axes of the lab."""
    return (
        space.group == "T(n)"
        or inputs.coordinates.endswith("scalars")
        or inputs.num_raw > 0
        or inputs.frame == "identity"
    )


def symmetry_of(
    space: Space, inputs: RapidashInputs, edges: Sequence[str], *, cutoff: float, envelope: bool
) -> Symmetry:
    """What kernels, inputs and edges leave of the motions of space.

        coordinates as three numbers                 nothing but permutations
        the same from the centroid                   T(3)
        vectors as three numbers, or axes of the lab T(3)
        kernels of T(n)                              T(3)
        otherwise                                    E(3), on a grid approximately; in the plane SE(2)

    A frame that is given turns with the structure: formally it costs nothing.
    """
    group = "SE(2)" if space.base == "R2xS1" else "E(3)"
    if breaks_rotation(space, inputs):
        group = "1" if inputs.coordinates == "scalars" else "T(3)"
    radii = [parse_edges(kind, cutoff).cutoff for kind in edges]
    single = len(edges) == 1
    return Symmetry(
        group=group,
        exact=space.base == "R3" or group in ("1", "T(3)"),
        smooth=single and not edges[0].startswith("knn") and (envelope or math.isinf(radii[0])),
        continuous=single and not edges[0].startswith("knn"),
        separable=single and is_local(edges[0], cutoff) and inputs.coordinates in ("none", "scalars"),
    )
