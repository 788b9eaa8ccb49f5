"""How much noise at which time: γ(t) = ln σ² − ln α² of variance-preserving diffusion, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid, softplus

from geomol.errors import ConfigError

RATIO_CLIP = 1e-3  # smallest ratio of neighbouring α², so that no single step adds all the noise


class Schedule(Protocol):
    """Noise over the times t in [0, 1] of T steps, `num_steps`: data at t = 0, noise at t = 1."""

    num_steps: int

    @property
    def is_learned(self) -> bool:
        """Whether γ has parameters, which only the variational bound can train."""
        ...

    def gamma(self, t: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        """γ, rising from data to noise."""
        ...


class TableSchedule:
    """γ at t = 0, 1/T, …, 1; other times get the value at the nearest of these (half to even, as published).

    Not a module: the table stays float64 whatever the precision of the network, because 1 − α² = 1e-5 does not survive
    less.

    Args:
        table: γ, T + 1 values.

    Raises:
        ConfigError: no step, or a table that falls somewhere (noise would be taken away on the way to noise).
    """

    is_learned = False

    def __init__(self, table: Float[Tensor, " K"]) -> None:
        if table.shape[0] < 2 or bool((table.diff() < 0).any()) or not bool(table.isfinite().all()):
            raise ConfigError("a noise schedule must be finite, rise, and have at least one step")
        self.num_steps = table.shape[0] - 1
        self.table = table.double()
        self._on: dict[torch.device, Tensor] = {}

    def gamma(self, t: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        """γ at the nearest entry, float64."""
        if t.device not in self._on:
            self._on[t.device] = self.table.to(t.device)
        return self._on[t.device][torch.round(t.double() * self.num_steps).long()]


class LearnedSchedule(nn.Module):
    """A monotone network, γ(t) = γ₀ + (γ₁ − γ₀) (f(t) − f(0)) / (f(1) − f(0)), f = l₁(t) + l₃(sigmoid(l₂(l₁(t)))).

    Weights act through a softplus, hence f rises. Source: Kingma et al. 2021 (arXiv:2107.00630), appendix H. EDM
    (arXiv:2203.17003) uses it with the variational loss only.

    Args:
        num_steps: T.
        hidden: width of l₂.
        start, end: first values of the end points γ₀ and γ₁, which are trained too.
    """

    is_learned = True

    def __init__(self, num_steps: int, *, hidden: int = 1024, start: float = -5.0, end: float = 10.0) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.l1, self.l2, self.l3 = _Positive(1, 1), _Positive(1, hidden), _Positive(hidden, 1)
        self.gamma_0 = nn.Parameter(torch.tensor([start]))
        self.gamma_1 = nn.Parameter(torch.tensor([end]))

    def gamma(self, t: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        """γ, differentiable, in the precision of the weights and on their device."""
        inner = t.to(self.gamma_0)
        values = self._rising(torch.cat([inner, inner.new_tensor([0.0, 1.0])]))
        first, last = values[-2], values[-1]
        return self.gamma_0 + (self.gamma_1 - self.gamma_0) * (values[:-2] - first) / (last - first)

    def _rising(self, t: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
        low: Tensor = self.l1(t[:, None])
        high: Tensor = self.l3(torch.sigmoid(self.l2(low)))
        return (low + high)[:, 0]


class _Positive(nn.Linear):
    """A linear layer with positive weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        with torch.no_grad():
            self.weight.sub_(2.0)  # small positive weights at the start, as in the authors' code

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, softplus(self.weight), self.bias)


def polynomial_schedule(num_steps: int, *, power: float = 2.0, precision: float = 1e-5) -> TableSchedule:
    """α² = (1 − 2s)(1 − uᵖ)² + s over u = 0 … 1, with neighbouring ratios of the polynomial clipped at 1e-3.

    Source: Hoogeboom et al. 2022 (arXiv:2203.17003), appendix B; T + 1 values of u as in the authors' code.

    Args:
        num_steps: T.
        power: p.
        precision: s, hence σ² at t = 0 and (nearly) α² at t = 1.
    """
    if not (num_steps > 0 and power > 0 and 0 < precision < 0.5):
        raise ConfigError("a polynomial schedule needs num_steps ≥ 1, power > 0 and 0 < precision < 0.5")
    u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    kept = (1 - u**power).square()
    kept = torch.cat([kept.new_ones(1), kept])
    kept = (kept[1:] / kept[:-1]).clamp(RATIO_CLIP, 1.0).cumprod(0)
    return TableSchedule(_gamma_of((1 - 2 * precision) * kept + precision))


def cosine_schedule(num_steps: int, *, offset: float = 0.008) -> TableSchedule:
    """α² = cos²(π/2 · (u + s)/(1 + s)), neighbouring ratios clipped at 1e-3.

    Source: Nichol, Dhariwal 2021 (arXiv:2102.09672), eq. 17; as in EDM's code, its T + 1 values are the products of the
    ratios of T + 2 evenly spaced points, so that the first already carries the noise of one step.
    """
    if num_steps < 1:
        raise ConfigError("a schedule needs num_steps ≥ 1", got=str(num_steps))
    u = torch.linspace(0, 1, num_steps + 2, dtype=torch.float64)
    kept = torch.cos((u + offset) / (1 + offset) * (math.pi / 2)).square()
    return TableSchedule(_gamma_of((kept[1:] / kept[:-1]).clamp(RATIO_CLIP, 1.0).cumprod(0)))


def make_schedule(name: str, num_steps: int, *, precision: float = 1e-5) -> TableSchedule | LearnedSchedule:
    """The schedule of that name: "polynomial_<power>", "cosine" or "learned".

    Args:
        name: as configurations write it.
        num_steps: T.
        precision: of the polynomial schedules.

    Raises:
        ConfigError: another name, or no step.
    """
    made: dict[str, Callable[[], TableSchedule | LearnedSchedule]] = {
        "cosine": lambda: cosine_schedule(num_steps),
        "learned": lambda: LearnedSchedule(num_steps),
    }
    if name in made:
        return made[name]()
    kind, _, power = name.partition("_")
    try:
        if kind == "polynomial":
            return polynomial_schedule(num_steps, power=float(power), precision=precision)
    except ValueError as fault:
        if isinstance(fault, ConfigError):
            raise
    raise ConfigError("unknown noise schedule", expected="polynomial_<power>, cosine or learned", got=name)


def _gamma_of(alpha_squared: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    return (1 - alpha_squared).log() - alpha_squared.log()


def alpha(gamma: Float[Tensor, " *S"]) -> Float[Tensor, " *S"]:
    """What is left of the data, √sigmoid(−γ)."""
    return torch.sigmoid(-gamma).sqrt()


def sigma(gamma: Float[Tensor, " *S"]) -> Float[Tensor, " *S"]:
    """Standard deviation of the noise, √sigmoid(γ)."""
    return torch.sigmoid(gamma).sqrt()


def snr(gamma: Float[Tensor, " *S"]) -> Float[Tensor, " *S"]:
    """Signal-to-noise ratio α²/σ² = e^(−γ)."""
    return torch.exp(-gamma)


def alpha_given(gamma_t: Float[Tensor, " *S"], gamma_s: Float[Tensor, " *S"]) -> Float[Tensor, " *S"]:
    """α_{t|s} = α_t/α_s of the step from s to t."""
    return torch.exp(0.5 * (logsigmoid(-gamma_t) - logsigmoid(-gamma_s)))


def sigma2_given(gamma_t: Float[Tensor, " *S"], gamma_s: Float[Tensor, " *S"]) -> Float[Tensor, " *S"]:
    """Variance added between s and t, σ²_{t|s} = σ_t² − α_{t|s}² σ_s², without cancellation."""
    return -torch.expm1(softplus(gamma_s) - softplus(gamma_t))


def sigma_given(gamma_t: Float[Tensor, " *S"], gamma_s: Float[Tensor, " *S"]) -> Float[Tensor, " *S"]:
    """σ_{t|s}, see `sigma2_given`."""
    return sigma2_given(gamma_t, gamma_s).sqrt()
