"""Smooth cutoff."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def polynomial_envelope(u: Float[Tensor, " *E"], p: int = 6) -> Float[Tensor, " *E"]:
    """Polynomial that falls from 1 at u = 0 to 0 at u = 1 with zero first and second derivative, and stays 0 beyond.

    w(u) = 1 − (p+1)(p+2)/2 u^p + p(p+2) u^(p+1) − p(p+1)/2 u^(p+2). Source: Gasteiger et al., DimeNet
    (arXiv:2003.03123), eq. 8.
    """
    u = u.clamp(max=1.0)
    a, b, c = (p + 1) * (p + 2) / 2, p * (p + 2), p * (p + 1) / 2
    return 1 - u**p * (a - b * u + c * u * u)
