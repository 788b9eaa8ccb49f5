"""Kernels of PONITA: functions of the relative pose of two points, expanded in a basis that all layers share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.nn import BesselBasis, legendre, polynomial_envelope, safe_norm
from geomol.ops import Edges, conv, separable_conv
from geomol.ops.backend import has_triton


def pair_attributes(vec: Float[Tensor, "E 3"], ori: Float[Tensor, "O 3"] | None) -> Float[Tensor, "E *O A"]:
    """Invariants of an edge vector r and an orientation o: (r·o, |r − (r·o)o|), or |r| without orientations."""
    if ori is None:
        return safe_norm(vec)[:, None]
    along = vec @ ori.T  # (E, O)
    across = safe_norm(vec[:, None, :] - along[..., None] * ori)
    return torch.stack([along, across], dim=-1)


def polynomial_features(a: Float[Tensor, "*S A"], degree: int) -> Float[Tensor, "*S F"]:
    """a, a⊗a, …, up to the given power, flattened row by row and concatenated."""
    powers = [a]
    for _ in range(degree - 1):
        powers.append((powers[-1][..., :, None] * a[..., None, :]).flatten(-2))
    return torch.cat(powers, dim=-1)


@dataclass(frozen=True, eq=False)
class BasisValues:
    """Basis functions on the edges of one graph, computed once and shared by all layers.

    Attributes:
        spatial: (E, [O,] B) of a polynomial basis, or the radial part (E, K) of a Legendre basis.
        angular: (E, O, L) angular part of a Legendre basis; None if there is none.
        fibre: (P, O, B) on pairs of orientations; None without orientations.
        at_zero: (B,) spatial basis of a node on itself; None where that pair is listed, or has a weight of its own.
    """

    spatial: Tensor
    angular: Tensor | None = None
    fibre: Tensor | None = None
    at_zero: Tensor | None = None


class Kernel(nn.Module, ABC):
    """A kernel of one layer: values on edges from what all layers share, and the convolution with them."""

    @abstractmethod
    def rescale(self, factor: Tensor) -> None:
        """Multiplies the kernel."""

    @abstractmethod
    def on_edges(self, values: BasisValues) -> tuple[Float[Tensor, "E *O C"], Float[Tensor, "*N C"] | None]:
        """The kernel on every edge, and of a node on itself where it has a value."""

    def convolve(self, x: Float[Tensor, "N *O C"], values: BasisValues, edges: Edges) -> Float[Tensor, "M *O C"]:
        """Σ over neighbours; where the kernel says so, every node is its own neighbour at distance 0."""
        kernel, at_zero = self.on_edges(values)
        out = conv(x, kernel, edges)
        return out if at_zero is None else out + x * at_zero


class FibreKernel(nn.Module, ABC):
    """A kernel between the orientations of a grid."""

    @abstractmethod
    def rescale(self, factor: Tensor) -> None:
        """Multiplies the kernel."""

    @abstractmethod
    def on_fibre(self, values: BasisValues) -> Float[Tensor, "P O C"]:
        """The kernel for every pair of orientations."""


class LinearKernel(Kernel, FibreKernel):
    """Kernel as a linear map of a polynomial basis, B → C: the published form."""

    def __init__(self, basis_dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(basis_dim, channels, bias=False)

    def on_edges(self, values: BasisValues) -> tuple[Float[Tensor, "E *O C"], Float[Tensor, "*N C"] | None]:
        return self.linear(values.spatial), None if values.at_zero is None else self.linear(values.at_zero)

    def on_fibre(self, values: BasisValues) -> Float[Tensor, "P O C"]:
        out: Tensor = self.linear(values.fibre)
        return out

    def rescale(self, factor: Tensor) -> None:
        self.linear.weight.mul_(factor)


class LegendreKernel(Kernel, FibreKernel):
    """Σ_l P_l(cos θ) Σ_k radial_k(r) W[l, k, c]: angular and radial sums in turn, so that nothing of size E × O × K·L
    arises.
    """

    def __init__(self, num_radial: int, num_angular: int, channels: int) -> None:
        super().__init__()
        scale = 1 / math.sqrt(max(num_radial, 1) * max(num_angular, 1))
        self.weight = nn.Parameter(torch.randn(max(num_radial, 1), num_angular, channels) * scale)
        self.self_weight = nn.Parameter(torch.ones(channels)) if num_radial else None

    def on_edges(self, values: BasisValues) -> tuple[Float[Tensor, "E *O C"], Float[Tensor, " C"] | None]:
        _, num_angular, channels = self.weight.shape
        radial = values.spatial @ self.weight.flatten(1)  # (E, L C)
        if values.angular is None:
            return radial, self.self_weight
        return torch.bmm(values.angular, radial.view(-1, num_angular, channels)), self.self_weight

    def convolve(self, x: Float[Tensor, "N *O C"], values: BasisValues, edges: Edges) -> Float[Tensor, "M *O C"]:
        """As `Kernel.convolve`, in one operator without the kernel of every edge and orientation in memory."""
        if values.angular is None or (x.is_cuda and not has_triton()):
            return super().convolve(x, values, edges)
        out = separable_conv(x, values.angular, values.spatial, self.weight, edges)
        return out if self.self_weight is None else out + x * self.self_weight

    def on_fibre(self, values: BasisValues) -> Float[Tensor, "P O C"]:
        assert values.fibre is not None
        return values.fibre @ self.weight[0]

    def rescale(self, factor: Tensor) -> None:
        self.weight.mul_(factor)
        if self.self_weight is not None:
            self.self_weight.mul_(factor)


class PolynomialBasis(nn.Module):
    """Two-layer network on polynomial features of the pair invariants, times the cutoff envelope (the paper's basis).

    Not differentiable where an edge is parallel to a grid direction: |r − (r·o)o| has a kink there.
    """

    def __init__(
        self, num_attributes: int, *, hidden: int, basis_dim: int, degree: int, cutoff: float, has_fibre: bool
    ) -> None:
        super().__init__()
        self.degree, self.cutoff, self.basis_dim, self.num_attributes = degree, cutoff, basis_dim, num_attributes

        def network(num_in: int) -> nn.Sequential:
            num_features = sum(num_in**k for k in range(1, degree + 1))
            return nn.Sequential(nn.Linear(num_features, hidden), nn.GELU(), nn.Linear(hidden, basis_dim), nn.GELU())

        self.spatial = network(num_attributes)
        self.fibre = network(1) if has_fibre else None

    def of_attributes(
        self, attributes: Float[Tensor, "E *O A"], length: Float[Tensor, " E"], *, on_itself: bool = False
    ) -> BasisValues:
        """Basis for given invariants, windowed by the length of the edge, and that of a node on itself if asked for."""
        spatial = self.spatial(polynomial_features(attributes, self.degree))
        if math.isfinite(self.cutoff):
            window = polynomial_envelope(length / self.cutoff)
            spatial = spatial * window.view(-1, *[1] * (spatial.dim() - 1))
        at_zero = None
        if on_itself:  # all invariants are 0 there
            at_zero = self.spatial(polynomial_features(attributes.new_zeros(self.num_attributes), self.degree))
        return BasisValues(spatial, at_zero=at_zero)

    def forward(self, vec: Float[Tensor, "E 3"], ori: Float[Tensor, "O 3"] | None) -> BasisValues:
        values = self.of_attributes(pair_attributes(vec, ori), safe_norm(vec), on_itself=True)
        fibre = None
        if self.fibre is not None and ori is not None:
            fibre = self.fibre(polynomial_features((ori @ ori.T)[..., None], self.degree))
        return replace(values, fibre=fibre)

    def spatial_kernel(self, channels: int) -> LinearKernel:
        return LinearKernel(self.basis_dim, channels)

    def fibre_kernel(self, channels: int) -> LinearKernel | None:
        return None if self.fibre is None else LinearKernel(self.basis_dim, channels)


class LegendreBasis(nn.Module):
    """Bessel functions of the distance × Legendre polynomials of the angle to each orientation; smooth, and 0 at the
    cutoff.
    """

    def __init__(self, num_radial: int, num_angular: int, num_fibre: int, *, cutoff: float) -> None:
        super().__init__()
        if not math.isfinite(cutoff):
            raise ConfigError('kernel="legendre" needs a finite cutoff (Å)', got=str(cutoff))
        if min(num_radial, num_angular) < 1:
            raise ConfigError("num_radial and num_angular must be at least 1", got=f"{num_radial}, {num_angular}")
        self.num_radial, self.num_angular, self.num_fibre = num_radial, num_angular, num_fibre
        self.radial = BesselBasis(num_radial, cutoff)

    def forward(self, vec: Float[Tensor, "E 3"], ori: Float[Tensor, "O 3"] | None) -> BasisValues:
        length = vec.square().sum(-1).sqrt()
        radial = self.radial(length)
        if ori is None:
            return BasisValues(radial)
        cos = (vec / length[:, None]) @ ori.T  # (E, O)
        return BasisValues(radial, angular=legendre(cos, self.num_angular), fibre=legendre(ori @ ori.T, self.num_fibre))

    def spatial_kernel(self, channels: int) -> LegendreKernel:
        return LegendreKernel(self.num_radial, self.num_angular, channels)

    def fibre_kernel(self, channels: int) -> LegendreKernel | None:
        return LegendreKernel(0, self.num_fibre, channels) if self.num_fibre else None


Basis = PolynomialBasis | LegendreBasis
