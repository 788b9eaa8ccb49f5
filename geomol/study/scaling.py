"""Power laws: how an error falls with data, width or compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from geomol.errors import InputError

LEAST_POINTS = 4
RESAMPLES = 1000
_LEVEL = 0.95


@dataclass(frozen=True)
class PowerLaw:
    """error = factor · size^(−exponent), with the interval of the exponent that bootstrap resampling gives.

    Attributes:
        exponent, factor: of the fit; a positive exponent means that the error falls.
        low, high: 95 % interval of the exponent.
        points: number of distinct sizes.
        r2: share of the variance of the logarithm that the law explains.
    """

    exponent: float
    factor: float
    low: float
    high: float
    points: int
    r2: float

    def at(self, size: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
        """The law at other sizes."""
        return np.asarray(self.factor * size**-self.exponent)


def fit_power_law(size: Float[np.ndarray, " M"], error: Float[np.ndarray, " M"], *, seed: int = 0) -> PowerLaw:
    """Least squares of ln error on ln size, over all runs.

    Source: protocol of Brehmer et al. 2024, "Does equivariance matter at scale?" (arXiv:2410.23179), for one variable
    at a time and without an irreducible error, which a few points do not determine. The bootstrap resamples
    runs.

    Raises:
        InputError: fewer than four distinct sizes, or values that have no logarithm.
    """
    sizes = np.unique(size)
    if len(sizes) < LEAST_POINTS:
        raise InputError("too few sizes for a power law", expected=f"{LEAST_POINTS} or more", got=str(len(sizes)))
    if not (np.isfinite(error).all() and (error > 0).all() and (size > 0).all()):
        raise InputError("sizes and errors of a power law must be positive numbers")
    x, y = np.log(size), np.log(error)
    slope, offset = np.polyfit(x, y, 1)
    residual = y - (slope * x + offset)
    r2 = 1 - float(residual @ residual) / max(float(((y - y.mean()) ** 2).sum()), 1e-300)
    rng = np.random.default_rng(seed)
    slopes: list[float] = []
    while len(slopes) < RESAMPLES:
        rows = rng.integers(len(size), size=len(size))
        if len(np.unique(x[rows])) >= LEAST_POINTS - 1:
            slopes.append(float(np.polyfit(x[rows], y[rows], 1)[0]))
    low, high = np.quantile(-np.array(slopes), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return PowerLaw(float(-slope), float(np.exp(offset)), float(low), float(high), len(sizes), r2)
