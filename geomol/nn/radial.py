"""Bases of the distance."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.nn.envelope import polynomial_envelope

_AT_ONE_PLACE = 1e-12  # Å; sin(kr)/r is k there, to the last digit


class BesselBasis(nn.Module):
    """sqrt(2 / r_c) sin(k π r / r_c) / r for k = 1..K, times the polynomial envelope; smooth and 0 beyond the cutoff.

    Source: Gasteiger et al., DimeNet (arXiv:2003.03123), eq. 7. Scaled by r_c / sqrt(2 K) here, so that the values are
    of order one at any cutoff.

    Args:
        num_radial: number of functions K.
        cutoff: r_c, Å.
        enveloped: times the envelope; without it the functions end in a kink at the cutoff.

    Raises:
        ConfigError: no finite positive cutoff, or no function.
    """

    wave_numbers: Tensor

    def __init__(self, num_radial: int, cutoff: float, *, enveloped: bool = True) -> None:
        super().__init__()
        self.enveloped = enveloped
        if not (math.isfinite(cutoff) and cutoff > 0):
            raise ConfigError("a radial basis needs a finite positive cutoff (Å)", got=str(cutoff))
        if num_radial < 1:
            raise ConfigError("num_radial must be at least 1", got=str(num_radial))
        self.cutoff = cutoff
        waves = torch.arange(1, num_radial + 1, dtype=torch.float64) * (math.pi / cutoff)
        self.register_buffer("wave_numbers", waves, persistent=False)

    def forward(self, length: Float[Tensor, " E"]) -> Float[Tensor, "E K"]:
        waves = self.wave_numbers.to(length.dtype)
        norm = math.sqrt(self.cutoff / len(waves))
        length = length.clamp_min(_AT_ONE_PLACE)  # the limit at 0, for points of a cloud that are there twice
        window = (polynomial_envelope(length / self.cutoff) if self.enveloped else 1.0) / length
        return torch.sin(length[:, None] * waves) * (norm * window)[:, None]


def legendre(x: Float[Tensor, " *S"], num: int) -> Float[Tensor, "*S L"]:
    """Legendre polynomials P_0 … P_{num−1} by Bonnet's recursion, scaled to unit mean square on the sphere: √(2l+1)
    P_l.
    """
    values = [torch.ones_like(x), x]
    for l in range(2, num):  # noqa: E741
        values.append(((2 * l - 1) * x * values[-1] - (l - 1) * values[-2]) / l)
    return torch.stack([math.sqrt(2 * l + 1) * p for l, p in enumerate(values[:num])], dim=-1)  # noqa: E741


def safe_norm(vec: Float[Tensor, "*S 3"]) -> Float[Tensor, " *S"]:
    """Length whose gradient at the zero vector is 0 instead of NaN, to all orders."""
    squared = vec.square().sum(-1)
    is_zero = squared == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squared).sqrt())
