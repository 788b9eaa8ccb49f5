"""Pair potentials: the analytic truth against which graphs, derivatives and molecular dynamics are tested.

The energy of a node is half the sum of its pair energies, ε_i = ½ Σ_j V(r_ij) w(r_ij / r_c), with the polynomial
envelope w of p = 6. It departs from the textbook forms by that window (−28 (r / r_c)⁶ relative at small
r): the minimum moves a little for short cutoffs, and energies, forces and their derivatives are continuous at r_c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, Symmetry, config_of
from geomol.nn import SpeciesIndex, polynomial_envelope
from geomol.ops import sum_to_receivers


class LennardJones(nn.Module):
    """V(r) = 4ε [(σ/r)¹² − (σ/r)⁶]: minimum −ε at 2^(1/6) σ, zero at σ.

    The defaults are the usual ones of argon. Symmetry: E(3), exact. The parameters are float64 and can be fitted.

    Args:
        elements: atomic numbers that are accepted; all where empty.
        epsilon: depth ε, eV.
        sigma: distance of zero energy σ, Å.
        cutoff: r_c, Å; inf leaves the textbook form, for complete graphs.

    Raises:
        ConfigError: a parameter that is not positive.
        ModelDomainError: at call, an element outside `elements`.
    """

    def __init__(
        self, *, elements: Sequence[int] = (), epsilon: float = 0.0104, sigma: float = 3.40, cutoff: float = 10.0
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff, self.out_scalars, self.out_vectors = float(cutoff), 1, 0
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=True)
        self.species = SpeciesIndex(elements) if len(elements) else None
        self.epsilon = _positive("epsilon", epsilon)
        self.sigma = _positive("sigma", sigma)
        _positive("cutoff", cutoff)

    def pair_energy(self, length: Float[Tensor, " *E"]) -> Float[Tensor, " *E"]:
        """V(r) without the window, eV."""
        attraction = (self.sigma / length) ** 6
        out: Tensor = 4 * self.epsilon * (attraction * attraction - attraction)
        return out

    def forward(self, graph: Graph) -> Features:
        """Node energies as the only scalar, eV."""
        if self.species is not None:
            self.species(graph.numbers)
        length = _lengths(graph, self.epsilon.dtype)
        return _half_sums(self.pair_energy(length), length, graph, self.cutoff)


class Morse(nn.Module):
    """V(r) = D [e^(−2a(r − r₀)) − 2 e^(−a(r − r₀))]: minimum −D at r₀, curvature 2 D a² there.

    The defaults are those of copper (Girifalco, Weizer, Phys. Rev. 114, 687, 1959). Symmetry: E(3), exact. The
    parameters are float64 and can be fitted.

    Args:
        elements: atomic numbers that are accepted; all where empty.
        depth: D, eV.
        a: inverse width, 1/Å.
        r0: equilibrium distance, Å.
        cutoff: r_c, Å; inf leaves the textbook form, for complete graphs.

    Raises:
        ConfigError: a parameter that is not positive.
        ModelDomainError: at call, an element outside `elements`.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        depth: float = 0.3429,
        a: float = 1.3588,
        r0: float = 2.866,
        cutoff: float = 8.0,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff, self.out_scalars, self.out_vectors = float(cutoff), 1, 0
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=True)
        self.species = SpeciesIndex(elements) if len(elements) else None
        self.depth = _positive("depth", depth)
        self.a = _positive("a", a)
        self.r0 = _positive("r0", r0)
        _positive("cutoff", cutoff)

    def pair_energy(self, length: Float[Tensor, " *E"]) -> Float[Tensor, " *E"]:
        """V(r) without the window, eV."""
        decay = torch.exp(-self.a * (length - self.r0))
        out: Tensor = self.depth * (decay * decay - 2 * decay)
        return out

    def forward(self, graph: Graph) -> Features:
        """Node energies as the only scalar, eV."""
        if self.species is not None:
            self.species(graph.numbers)
        length = _lengths(graph, self.depth.dtype)
        return _half_sums(self.pair_energy(length), length, graph, self.cutoff)


def _positive(name: str, value: float) -> nn.Parameter:
    if not value > 0:
        raise ConfigError(f"{name} must be positive", got=str(value))
    return nn.Parameter(torch.tensor(float(value), dtype=torch.float64))


def _lengths(graph: Graph, dtype: torch.dtype) -> Float[Tensor, " E"]:
    return edge_vectors(graph, dtype).square().sum(1).sqrt()


def _half_sums(energy: Float[Tensor, " E"], length: Float[Tensor, " E"], graph: Graph, cutoff: float) -> Features:
    """Half of every pair to each of its atoms, through the window."""
    if math.isfinite(cutoff):
        energy = energy * polynomial_envelope(length / cutoff)
    return Features(sum_to_receivers(0.5 * energy, graph)[:, None])
