"""Bases of Rapidash's kernels: those of PONITA on the attributes of any base space, with the noise level if told."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.models.ponita_kernels import (
    BasisValues,
    LegendreBasis,
    LegendreKernel,
    PolynomialBasis,
    polynomial_features,
)
from geomol.models.rapidash_attributes import Space
from geomol.nn import legendre, polynomial_envelope, safe_norm

_TINY_SQUARE = 1e-16  # under the root of distances: coincident points get a finite kernel without direction


@dataclass(frozen=True, eq=False)
class Told:
    """A number that every kernel is told beside the geometry: the noise level, of each edge and of each node."""

    edges: Float[Tensor, "E 1"]
    nodes: Float[Tensor, "N 1"]


class AttributeBasis(PolynomialBasis):
    """Two-layer network on powers 1 to degree + 1 of the attributes, as in the official code.

    The envelope multiplies the basis, not the attributes, so that messages vanish at the cutoff.
    """

    def __init__(self, space: Space, *, hidden: int, basis_dim: int, degree: int, told: bool, self_loops: bool) -> None:
        super().__init__(
            space.num_attributes + told,
            hidden=hidden,
            basis_dim=basis_dim,
            degree=degree + 1,
            cutoff=math.inf,
            has_fibre=space.base != "R3",
        )
        self.space, self.self_loops = space, self_loops

    def forward(
        self,
        vec: Float[Tensor, "E 3"],
        ori: Float[Tensor, "O 3"] | None,
        *,
        cutoff: float = math.inf,
        told: Told | None = None,
        between_sets: bool = False,
    ) -> BasisValues:
        """Basis on the edges, windowed where there is a cutoff, and of nodes on themselves unless `between_sets`."""
        attributes = self.space.attributes(vec, ori)
        if told is not None:
            level = told.edges.view(-1, *[1] * (attributes.dim() - 1)).expand(*attributes.shape[:-1], 1)
            attributes = torch.cat([attributes, level], dim=-1)
        spatial = self.spatial(polynomial_features(attributes, self.degree))
        if math.isfinite(cutoff):
            window = polynomial_envelope(safe_norm(vec) / cutoff)
            spatial = spatial * window.view(-1, *[1] * (spatial.dim() - 1))
        fibre = None
        if self.fibre is not None and ori is not None:
            fibre = self.fibre(polynomial_features((ori @ ori.T)[..., None], self.degree))
        at_zero = None if between_sets or not self.self_loops else self._at_zero(vec, ori, told)
        return BasisValues(spatial, fibre=fibre, at_zero=at_zero)

    def _at_zero(self, like: Tensor, ori: Tensor | None, told: Told | None) -> Tensor:
        """(B,), or with a noise level (N, [1,] B)."""
        here = like.new_zeros(self.space.num_attributes)
        if told is not None:
            here = torch.cat([here.expand(len(told.nodes), -1), told.nodes], dim=1)
            here = here if ori is None else here[:, None]
        out: Tensor = self.spatial(polynomial_features(here, self.degree))
        return out


class DirectionBasis(LegendreBasis):
    """Bessel functions of the distance × smooth functions of the direction (`Space.directions`); 0 at the cutoff."""

    def __init__(
        self, space: Space, *, num_radial: int, num_angular: int, num_fibre: int, cutoff: float, self_loops: bool
    ) -> None:
        super().__init__(num_radial, num_angular, 0 if space.base == "R3" else num_fibre, cutoff=cutoff)
        self.space, self.self_loops = space, self_loops
        self.num_directions = space.num_directions(num_angular)

    def forward(
        self,
        vec: Float[Tensor, "E 3"],
        ori: Float[Tensor, "O 3"] | None,
        *,
        cutoff: float = math.inf,
        told: Told | None = None,
        between_sets: bool = False,
    ) -> BasisValues:
        """As `AttributeBasis`; the Bessel functions bring their own window, and levels of noise are not read."""
        length = (vec.square().sum(-1) + _TINY_SQUARE).sqrt()
        radial = self.radial(length)
        angular = self.space.directions(vec / length[:, None], ori, self.num_angular)
        if ori is None:
            return BasisValues((radial[:, :, None] * angular[:, None]).flatten(1))
        fibre = legendre(ori @ ori.T, self.num_fibre) if self.num_fibre else None
        return BasisValues(radial, angular=angular, fibre=fibre)

    def spatial_kernel(self, channels: int) -> LegendreKernel:
        if self.space.base == "R3":
            kernel = LegendreKernel(self.num_radial * self.num_directions, 1, channels)
        else:
            kernel = LegendreKernel(self.num_radial, self.num_directions, channels)
        if not self.self_loops:
            kernel.self_weight = None
        return kernel


PoseBasis = AttributeBasis | DirectionBasis
