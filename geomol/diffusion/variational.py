"""Variance-preserving diffusion with a γ schedule: noise on, one step back, and the whole way back to molecules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.diffusion.cloud import Cloud
from geomol.diffusion.eps_model import EpsNetwork
from geomol.diffusion.scaling import FeatureScaling
from geomol.diffusion.schedules import Schedule, alpha, alpha_given, sigma, sigma2_given
from geomol.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Sampled:
    """Molecules at the end of a chain.

    Attributes:
        pos: Å, centred.
        types: index of each atom's type.
        charges: its integer, where the scaling has one.
        ptr: bounds of the molecules.
    """

    pos: Float[Tensor, "N 3"]
    types: Int[Tensor, " N"]
    charges: Int[Tensor, " N"] | None
    ptr: Int[Tensor, " P"]


def diffuse(clean: Cloud, noise: Cloud, gamma: Float[Tensor, " G"]) -> Cloud:
    """z_t = α_t x + σ_t ε of each structure; in the precision of `clean`. Centred if both are."""
    dtype = clean.pos.dtype
    return clean.scaled(alpha(gamma).to(dtype)).plus(noise.scaled(sigma(gamma).to(dtype)))


def reverse_step(
    eps: EpsNetwork,
    noisy: Cloud,
    schedule: Schedule,
    t: Float[Tensor, " G"],
    s: Float[Tensor, " G"],
    noise: Cloud,
) -> Cloud:
    """z_s ~ p(z_s | z_t), for s < t: the exact posterior of the step for the x that ε̂ implies.

        z_s = z_t/α_{t|s} − σ²_{t|s}/(α_{t|s} σ_t) ε̂ + σ_{t|s} σ_s/σ_t · noise, then centred

    Source: Kingma et al. 2021 (arXiv:2107.00630), appendix A.4; EDM (arXiv:2203.17003), algorithm 2. The same noise,
    rotated, gives the same result, rotated, if `eps` is equivariant.

    Args:
        eps: the ε-network.
        noisy: z_t.
        schedule: γ.
        t, s: times in [0, 1].
        noise: standard normal, centred (see `gaussian_cloud`).
    """
    gamma_t, gamma_s = schedule.gamma(t), schedule.gamma(s)
    between, kept, now = sigma2_given(gamma_t, gamma_s), alpha_given(gamma_t, gamma_s), sigma(gamma_t)
    dtype = noisy.pos.dtype
    mean = noisy.scaled((1 / kept).to(dtype)).plus(eps(noisy, t).scaled((-between / (kept * now)).to(dtype)))
    return mean.plus(noise.scaled((between.sqrt() * sigma(gamma_s) / now).to(dtype))).centred()


def final_step(eps: EpsNetwork, noisy: Cloud, schedule: Schedule, scaling: FeatureScaling, noise: Cloud) -> Sampled:
    """Molecules from z₀: positions ~ N((z₀ − σ₀ ε̂)/α₀, σ₀/α₀), types and charges read from z₀ itself.

    Departs from the authors' code, which without charges drops the last column of types. `noise` as in `reverse_step`;
    its features are not used.
    """
    zero = torch.zeros(noisy.num_graphs, dtype=noisy.pos.dtype, device=noisy.pos.device)
    gamma = schedule.gamma(zero)
    a, b, dtype = alpha(gamma), sigma(gamma), noisy.pos.dtype
    pos = noisy.scaled((1 / a).to(dtype)).plus(eps(noisy, zero).plus(noise.scaled(-1.0)).scaled((-b / a).to(dtype))).pos
    pos, types, charges = scaling.decode(noisy.replace(pos, noisy.feats).centred())
    return Sampled(pos, types, charges, noisy.ptr)


@torch.no_grad()
def sample_ancestral(
    eps: EpsNetwork,
    start: Cloud,
    schedule: Schedule,
    scaling: FeatureScaling,
    draw: Callable[[], Cloud],
    *,
    num_steps: int | None = None,
    on_step: Callable[[int, Cloud], None] | None = None,
) -> Sampled:
    """The whole chain from noise to molecules; `num_steps` + 1 calls of the network.

    Args:
        eps: the ε-network.
        start: z at t = 1, standard normal, centred.
        schedule: γ.
        scaling: how to read types and charges.
        draw: gives new noise at every call, as `lambda: gaussian_cloud(ptr, num_feats, generators)`.
        num_steps: of the walk from t = 1 to 0, spread evenly over the T of the schedule; None for all of them.
        on_step: is told how many steps remain, and z, after every step.

    Raises:
        ConfigError: more steps than the schedule has, or none.
    """
    steps = schedule.num_steps if num_steps is None else num_steps
    if not 1 <= steps <= schedule.num_steps:
        raise ConfigError("cannot take that many steps", expected=f"1 to {schedule.num_steps}", got=str(steps))
    cloud = start
    whole = torch.ones(start.num_graphs, dtype=start.pos.dtype, device=start.pos.device)
    for k in range(steps, 0, -1):
        t, s = (round(j * schedule.num_steps / steps) / schedule.num_steps for j in (k, k - 1))
        cloud = reverse_step(eps, cloud, schedule, whole * t, whole * s, draw())
        if on_step is not None:
            on_step(k - 1, cloud)
    return final_step(eps, cloud, schedule, scaling, draw())
