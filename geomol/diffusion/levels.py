"""Noise levels: which are met in training, how much each counts, and the grid that a sampler walks down.

All processes are told in one way: noisy data y = x + s ε with s the ratio of noise to signal. Variance-preserving
diffusion and flows are the same thing with y scaled, z = α y: s = σ/α for z = α x + σ ε, and s = t / (1 − t) for
z = (1 − t) x + t ε. So one denoiser and one set of samplers serve all; a process is how s is drawn, weighted and
walked.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.diffusion.schedules import make_schedule
from geomol.errors import ConfigError, nearest
from geomol.models.base import config_of


def even_draws(num: int, generator: torch.Generator | None = None) -> Float[Tensor, " {num}"]:
    """Uniform numbers in (0, 1), one in each of `num` equal bins, in random order: less noise in a mean loss."""
    bins = torch.randperm(num, generator=generator).double()
    return ((bins + torch.rand(num, generator=generator, dtype=torch.float64)) / num).clamp(1e-9, 1 - 1e-9)


class Levels(ABC):
    """A noise process; coordinates have unit standard deviation."""

    config: dict[str, object]

    @abstractmethod
    def at(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Level s for u uniform in (0, 1), as it is distributed in training."""

    @abstractmethod
    def weight(self, s: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Factor of |x̂ − x|² in the loss."""

    @abstractmethod
    def grid(self, num_steps: int) -> Float[Tensor, " {num_steps}+1"]:
        """Levels from the highest down to 0."""

    def draw(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, " {num}"]:
        """Levels for the structures of a batch."""
        return self.at(even_draws(num, generator))


class Karras(Levels):
    """ln s normal, with a share of draws spread evenly in ln s at low levels, where bond orders are decided.

    Weight (1 + s²) / s², which makes the target of the preconditioned network of unit size; grid
    s_i = (s_max^{1/ρ} + i/(n−1) (s_min^{1/ρ} − s_max^{1/ρ}))^ρ. Source: Karras et al., NeurIPS 2022 (arXiv:2206.00364),
    eqs. 5 and 8, tables 1; the low share is ours.

    Args:
        mean, std: of ln s.
        low_share: of draws that fall in [low_min, low_max].
        low_min, low_max: in units of the standard deviation of the coordinates.
        s_min, s_max, rho: of the grid.
    """

    def __init__(
        self,
        *,
        mean: float = -1.2,
        std: float = 1.2,
        low_share: float = 0.2,
        low_min: float = 0.006,
        low_max: float = 0.09,
        s_min: float = 0.003,
        s_max: float = 20.0,
        rho: float = 7.0,
    ) -> None:
        self.config = config_of(locals())
        if not (0 < s_min < s_max and 0 < low_min < low_max and 0 <= low_share < 1 and std > 0 and rho > 0):
            raise ConfigError(
                "noise levels need 0 < s_min < s_max, 0 < low_min < low_max, 0 ≤ low_share < 1, std > 0, rho > 0"
            )
        self.mean, self.std, self.low_share = mean, std, low_share
        self.low = (math.log(low_min), math.log(low_max))
        self.s_min, self.s_max, self.rho = s_min, s_max, rho

    def at(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        # the first share of quantiles is the low one, so that every batch has its part of it
        share = self.low_share
        low = self.low[0] + (u / max(share, 1e-9)) * (self.low[1] - self.low[0])
        rest = ((u - share) / (1 - share)).clamp(1e-6, 1 - 1e-6)
        normal = self.mean + self.std * math.sqrt(2) * torch.erfinv(2 * rest - 1)
        return torch.exp(torch.where(u < share, low, normal))

    def weight(self, s: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (1 + s.square()) / s.square()

    def grid(self, num_steps: int) -> Float[Tensor, " {num_steps}+1"]:
        ends = self.s_max ** (1 / self.rho), self.s_min ** (1 / self.rho)
        ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
        return torch.cat([(ends[0] + ramp * (ends[1] - ends[0])) ** self.rho, torch.zeros(1, dtype=torch.float64)])


class Variational(nn.Module, Levels):
    """Variance-preserving diffusion with the schedules of EDM: s = σ/α at times t in [0, 1].

    Training minimises the error of the noise at random steps, ½ |ε − ε̂|² divided by the number of coordinates ("l2"),
    or the bound on the likelihood ("vlb", which a learned schedule needs); see `geomol.diffusion.training_terms`.
    Source: Hoogeboom et al., ICML 2022 (arXiv:2203.17003).

    Args:
        schedule: "polynomial_2" (or another power), "cosine" or "learned".
        num_steps: T.
        objective: "l2" or "vlb".
        precision: of the polynomial schedule, which keeps α² within [precision, 1 − precision].
    """

    def __init__(
        self,
        *,
        schedule: str = "polynomial_2",
        num_steps: int = 1000,
        objective: str = "l2",
        precision: float = 1e-5,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        if objective not in ("l2", "vlb"):
            raise ConfigError("unknown objective", expected="l2 or vlb", got=str(objective))
        self.objective = objective
        self.schedule = make_schedule(schedule, num_steps, precision=precision)
        if self.schedule.is_learned and objective == "l2":
            raise ConfigError("a learned schedule needs the variational objective", remedy='use objective "vlb"')

    def at(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.exp(0.5 * self.schedule.gamma(u).double())

    def weight(self, s: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return s.square().reciprocal()

    def grid(self, num_steps: int) -> Float[Tensor, " {num_steps}+1"]:
        # between the entries of a table there is nothing: a level would come twice
        if num_steps > self.schedule.num_steps and not self.schedule.is_learned:
            raise ConfigError(
                "more steps than the noise schedule has",
                expected=f"at most {self.schedule.num_steps}",
                got=str(num_steps),
            )
        levels = self.at(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)).detach().cpu()
        return torch.cat([levels[:-1], torch.zeros(1, dtype=torch.float64)])


class Flow(Levels):
    """Straight paths z = (1 − t) x + t ε, t distributed as Beta(1, power) (power > 1: more low noise).

    Weight 1 / t² in z, the unweighted error of the velocity, not above `cap`. Sources: Lipman et al., ICLR 2023
    (arXiv:2210.02747); distribution of t as in SemlaFlow, Irwin et al. 2025 (arXiv:2406.07266), Beta(2, 1) in 1 − t.

    Args:
        power: of the distribution, 1 for uniform.
        t_max: where sampling starts.
        t_min: the last level before 0.
        cap: largest weight.
    """

    def __init__(self, *, power: float = 2.0, t_max: float = 0.99, t_min: float = 0.003, cap: float = 1e4) -> None:
        self.config = config_of(locals())
        if not (power > 0 and 0 < t_min < t_max < 1 and cap > 0):
            raise ConfigError("a flow needs power > 0, 0 < t_min < t_max < 1 and cap > 0")
        self.power, self.t_max, self.t_min, self.cap = power, t_max, t_min, cap

    def at(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        t = (1 - (1 - u.double()) ** (1 / self.power)).clamp(self.t_min / 3, self.t_max)
        return t / (1 - t)

    def weight(self, s: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return ((1 + s) / s).square().clamp(max=self.cap)

    def grid(self, num_steps: int) -> Float[Tensor, " {num_steps}+1"]:
        t = torch.linspace(self.t_max, self.t_min, num_steps, dtype=torch.float64)
        return torch.cat([t / (1 - t), torch.zeros(1, dtype=torch.float64)])


PROCESSES: dict[str, type[Levels]] = {"karras": Karras, "variational": Variational, "flow": Flow}


def build_levels(config: Mapping[str, object]) -> Levels:
    """A noise process from {"name": …, **arguments}.

    Raises:
        ConfigError: unknown name or arguments.
    """
    arguments = dict(config)
    name = str(arguments.pop("name", None))
    if name not in PROCESSES:
        raise ConfigError(f'unknown noise process "{name}"', remedy=nearest(name, PROCESSES))
    try:
        return PROCESSES[name](**arguments)
    except TypeError as error:
        raise ConfigError(f'arguments of noise process "{name}"', got=str(error)) from error


def levels_config(levels: Levels) -> dict[str, object]:
    """The configuration from which `build_levels` makes the same process."""
    name = next(name for name, cls in PROCESSES.items() if type(levels) is cls)
    return {"name": name, **levels.config}
