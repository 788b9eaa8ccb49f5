"""Ways down from noise to structures: free functions of a denoiser, the noisy structures, and a grid of levels.

All work on y = x + s ε and descend a grid of levels s that ends at 0; see `geomol.diffusion.levels` for what that means
for variance-preserving processes and flows. The last estimate, made at the lowest level above 0, is the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from geomol.diffusion.cloud import Cloud
from geomol.diffusion.denoiser import Estimate


class Denoise(Protocol):
    """A denoiser at one level for all structures; the earlier estimate is for self-conditioning."""

    def __call__(self, noisy: Cloud, level: float, earlier: Estimate | None) -> Estimate: ...


@dataclass(frozen=True)
class Churn:
    """Noise that is put back on the way (Karras et al. 2022, algorithm 2).

    Attributes:
        amount: S_churn, spread over the steps; 0 for a deterministic path.
        s_min, s_max: levels between which it acts.
        inflate: S_noise, factor on the new noise.
    """

    amount: float = 0.0
    s_min: float = 0.01
    s_max: float = 10.0
    inflate: float = 1.0


Noise = Callable[[], Cloud]
OnStep = Callable[[int, Cloud, Estimate], None]
NO_CHURN = Churn()


def ddim(
    denoise: Denoise, noisy: Cloud, grid: Float[Tensor, " L"], noise: Noise, *, on_step: OnStep | None = None
) -> Estimate:
    """y' = x̂ + (s'/s)(y − x̂): deterministic, first order.

    Source: Song et al., ICLR 2021 (arXiv:2010.02502), eq. 12 with σ = 0. The Euler method for a flow is the same step.
    """
    return _descend(denoise, noisy, grid, lambda y, x, s, t: _toward(x, y, t / s), on_step)


def ancestral(
    denoise: Denoise, noisy: Cloud, grid: Float[Tensor, " L"], noise: Noise, *, on_step: OnStep | None = None
) -> Estimate:
    """y' ~ q(y' | y, x̂) = N(x̂ + (s'/s)² (y − x̂), s'² (1 − s'²/s²)): the reverse process of DDPM and EDM.

    Source: Ho et al., NeurIPS 2020 (arXiv:2006.11239), eq. 7; Hoogeboom et al. 2022, eq. 7.
    """

    def step(y: Cloud, x: Cloud, s: float, t: float) -> Cloud:
        return _toward(x, y, (t / s) ** 2).plus(noise().scaled(t * (1 - (t / s) ** 2) ** 0.5))

    return _descend(denoise, noisy, grid, step, on_step)


def heun(
    denoise: Denoise,
    noisy: Cloud,
    grid: Float[Tensor, " L"],
    noise: Noise,
    *,
    churn: Churn = NO_CHURN,
    on_step: OnStep | None = None,
) -> Estimate:
    """Second order, two evaluations per step, with noise put back where `churn` says so.

    Source: Karras et al., NeurIPS 2022 (arXiv:2206.00364), algorithm 2.
    """
    estimate: Estimate | None = None
    levels = grid.tolist()
    most = 2**0.5 - 1
    for number, (s, t) in enumerate(pairwise(levels)):
        if churn.amount > 0 and churn.s_min <= s <= churn.s_max and t > 0:
            risen = s * (1 + min(churn.amount / (len(levels) - 1), most))
            noisy = noisy.plus(noise().scaled(churn.inflate * (risen**2 - s**2) ** 0.5))
            s = risen
        estimate = denoise(noisy, s, estimate)
        if on_step is not None:
            on_step(number, noisy, estimate)
        if t == 0:
            break
        begun = _slope(noisy, estimate.clean, s)
        trial = noisy.plus(begun.scaled(t - s))
        estimate = denoise(trial, t, estimate)
        noisy = noisy.plus(begun.plus(_slope(trial, estimate.clean, t)).scaled((t - s) / 2))
        noisy = noisy.centred()  # rounding at high levels, where positions are large, would stay to the end
    assert estimate is not None
    return estimate


def multistep(
    denoise: Denoise, noisy: Cloud, grid: Float[Tensor, " L"], noise: Noise, *, on_step: OnStep | None = None
) -> Estimate:
    """Second order with one evaluation per step: y' = (s'/s) y + (1 − s'/s) D, D extrapolated from the last two x̂.

    Source: Lu et al. 2022 (arXiv:2211.01095), DPM-Solver++(2M), algorithm 2, in the variable λ = −ln s.
    """
    before: list[tuple[Cloud, float]] = []  # the last estimate, and how far λ went from it

    def step(y: Cloud, x: Cloud, s: float, t: float) -> Cloud:
        aim, went = x, math.log(s / t)
        if before:
            last, came = before.pop()
            ahead = went / (2 * came)
            aim = x.scaled(1 + ahead).plus(last.scaled(-ahead))
        before.append((x, went))
        return _toward(aim, y, t / s)

    return _descend(denoise, noisy, grid, step, on_step)


def midpoint(
    denoise: Denoise, noisy: Cloud, grid: Float[Tensor, " L"], noise: Noise, *, on_step: OnStep | None = None
) -> Estimate:
    """The midpoint rule for a flow, in t = s / (1 + s) and z = (1 − t) y, where the paths are straight."""
    estimate: Estimate | None = None
    levels = grid.tolist()
    for number, (s, later) in enumerate(pairwise(levels)):
        estimate = denoise(noisy, s, estimate)
        if on_step is not None:
            on_step(number, noisy, estimate)
        if later == 0:
            break
        t, t_later = s / (1 + s), later / (1 + later)
        half = (t + t_later) / 2
        z = noisy.scaled(1 - t)
        middle = z.plus(_slope(z, estimate.clean, t).scaled(half - t))
        estimate = denoise(middle.scaled(1 / (1 - half)), half / (1 - half), estimate)
        z = z.plus(_slope(middle, estimate.clean, half).scaled(t_later - t))
        noisy = z.scaled(1 / (1 - t_later))
    assert estimate is not None
    return estimate


def _descend(
    denoise: Denoise,
    noisy: Cloud,
    grid: Float[Tensor, " L"],
    step: Callable[[Cloud, Cloud, float, float], Cloud],
    on_step: OnStep | None,
) -> Estimate:
    """One evaluation per level, `step(y, x̂, s, s')` between them."""
    estimate: Estimate | None = None
    levels = grid.tolist()
    for number, (s, t) in enumerate(pairwise(levels)):
        estimate = denoise(noisy, s, estimate)
        if on_step is not None:
            on_step(number, noisy, estimate)
        if t > 0:
            noisy = step(noisy, estimate.clean, s, t)
    assert estimate is not None
    return estimate


def _toward(clean: Cloud, noisy: Cloud, ratio: float) -> Cloud:
    """x̂ + ratio (y − x̂)."""
    return clean.scaled(1 - ratio).plus(noisy.scaled(ratio))


def _slope(noisy: Cloud, clean: Cloud, s: float) -> Cloud:
    """(y − x̂) / s."""
    return noisy.plus(clean.scaled(-1.0)).scaled(1 / s)


SAMPLERS: dict[str, Callable[..., Estimate]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "heun": heun,
    "midpoint": midpoint,
    "multistep": multistep,
}
EVALUATIONS = {"heun": 2, "midpoint": 2}  # of the denoiser per step, where more than one
