"""How likely molecules are under a variational diffusion: the bound on −ln p(x, h, n), term by term, in nats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from geomol.diffusion.cloud import Cloud, gaussian_cloud
from geomol.diffusion.eps_model import EpsNetwork
from geomol.diffusion.scaling import FeatureScaling, log_prob_charges, log_prob_types
from geomol.diffusion.schedules import Schedule, sigma
from geomol.diffusion.sizes import SizePrior
from geomol.diffusion.variational import diffuse
from geomol.ops import segment_sum


@dataclass(frozen=True, eq=False)
class NLL:
    """−ln p of each molecule, nats; an upper bound, whose sum is `total`.

    Positions live in the space without translations, of 3 (n − 1) dimensions; the unit of length is Å.

    Attributes:
        kl_prior: KL of q(z₁ | x) from the standard normal.
        diffusion: the T steps, Σ_t ½ (SNR_s/SNR_t − 1) |ε − ε̂|², or an unbiased estimate of it.
        positions: ½ |ε − ε̂|² of the last step.
        constants: of its normal density, 3 (n − 1) (ln σ₀ − ln α₀ + ½ ln 2π).
        types: −ln p(types | z₀).
        charges: −ln p(charges | z₀).
        volume: 3 (n − 1) ln norm_x.
        size: −ln p(n); 0 where no prior is given.
    """

    kl_prior: Float[Tensor, " G"]
    diffusion: Float[Tensor, " G"]
    positions: Float[Tensor, " G"]
    constants: Float[Tensor, " G"]
    types: Float[Tensor, " G"]
    charges: Float[Tensor, " G"]
    volume: Float[Tensor, " G"]
    size: Float[Tensor, " G"]

    @property
    def given_size(self) -> Float[Tensor, " G"]:
        """−ln p(x, h | n)."""
        return self.total - self.size

    @property
    def total(self) -> Float[Tensor, " G"]:
        """−ln p(x, h, n)."""
        return torch.stack(list(self.terms().values())).sum(0)

    def terms(self) -> dict[str, Float[Tensor, " G"]]:
        """All terms by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def mean_with(self, others: Sequence[Self]) -> Self:
        """The mean of estimates for the same molecules."""
        every = [self.terms(), *(other.terms() for other in others)]
        return type(self)(**{name: torch.stack([terms[name] for terms in every]).mean(0) for name in every[0]})


def nll_terms(
    eps: EpsNetwork,
    data: Cloud,
    schedule: Schedule,
    scaling: FeatureScaling,
    *,
    step: Int[Tensor, " G"],
    noise: Cloud,
    noise_0: Cloud,
    sizes: SizePrior | None = None,
) -> NLL:
    """One estimate of every term, unbiased where `step` is uniform on 1 … T; two calls of the network.

    Source: Hoogeboom et al. 2022 (arXiv:2203.17003), sections 3.2-3.3, and Kingma et al. 2021 (arXiv:2107.00630).

    Args:
        eps: the ε-network.
        data: clean molecules, see `FeatureScaling.encode`.
        schedule: γ.
        scaling: of the features.
        step: t T of each molecule, 1 … T.
        noise: ε of the step.
        noise_0: ε of z₀.
        sizes: p(n).
    """
    n = data.ptr.diff()
    gamma_0 = schedule.gamma(_zeros(data))
    noisy = diffuse(data, noise_0, gamma_0)
    found = eps(noisy, _zeros(data))
    dims = 3 * (n - 1).double()
    return NLL(
        kl_prior=kl_prior(data, schedule),
        diffusion=schedule.num_steps * step_error(eps, data, schedule, step, noise),
        positions=0.5 * squared_error(found, noise_0, data)[0],
        constants=position_constants(data, schedule),
        types=-log_prob_types(noisy, data, sigma(gamma_0), scaling),
        charges=-log_prob_charges(noisy, data, sigma(gamma_0), scaling),
        volume=scaling.log_volume(data.ptr),
        size=torch.zeros_like(dims) if sizes is None else -sizes.log_prob(n),
    )


@torch.no_grad()
def estimate_nll(
    eps: EpsNetwork,
    data: Cloud,
    schedule: Schedule,
    scaling: FeatureScaling,
    generators: Sequence[torch.Generator],
    *,
    times: int = 1,
    sizes: SizePrior | None = None,
) -> NLL:
    """The NLL from `times` draws of time and noise for each molecule.

    Times are stratified: the k-th draw falls into the k-th of `times` equal parts of (0, 1], so that with `times` = T
    every step is met exactly once. Unbiased for any number.

    Args:
        generators: a CPU generator for each molecule, so that its estimate does not depend on the batch.
        times: draws.
        eps, data, schedule, scaling, sizes: as for `nll_terms`.
    """
    found = []
    for k in range(times):
        u = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
        steps = 1 + ((k + u) * (schedule.num_steps / times)).long()
        noise, noise_0 = (
            gaussian_cloud(data.ptr, data.feats.shape[1], generators, dtype=data.pos.dtype) for _ in range(2)
        )
        step = steps.clamp(max=schedule.num_steps).to(data.ptr.device)
        found.append(nll_terms(eps, data, schedule, scaling, step=step, noise=noise, noise_0=noise_0, sizes=sizes))
    return found[0].mean_with(found[1:])


def kl_prior(data: Cloud, schedule: Schedule) -> Float[Tensor, " G"]:
    """KL(q(z₁ | x) ‖ N(0, 1)) = ½ (α² |x|² + D (σ² − 1 − ln σ²)) over D = 3 (n − 1) + n F dimensions."""
    gamma = schedule.gamma(_zeros(data) + 1)
    squares = data.pos.square().sum(1) + data.feats.square().sum(1)
    n = data.ptr.diff().double()
    dims = 3 * (n - 1) + n * data.feats.shape[1]
    kept = torch.sigmoid(-gamma)
    return 0.5 * (kept * segment_sum(squares, data.ptr) - dims * (kept + logsigmoid(gamma)))


def position_constants(data: Cloud, schedule: Schedule) -> Float[Tensor, " G"]:
    """−ln of the normalisation of p(x | z₀), whose standard deviation is σ₀/α₀ = e^(γ₀/2)."""
    dims = 3 * (data.ptr.diff() - 1).double()
    return dims * (0.5 * schedule.gamma(_zeros(data)) + 0.5 * math.log(2 * math.pi))


def step_error(
    eps: EpsNetwork, data: Cloud, schedule: Schedule, step: Int[Tensor, " G"], noise: Cloud
) -> Float[Tensor, " G"]:
    """½ (SNR_s/SNR_t − 1) |ε − ε̂|² of the step from t = step/T to s = (step − 1)/T."""
    t = step.to(data.pos.dtype) / schedule.num_steps
    gamma_t, gamma_s = schedule.gamma(t), schedule.gamma((step - 1).to(data.pos.dtype) / schedule.num_steps)
    error = sum(squared_error(eps(diffuse(data, noise, gamma_t), t), noise, data))
    return 0.5 * torch.expm1(gamma_t - gamma_s) * error


def squared_error(found: Cloud, truth: Cloud, data: Cloud) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
    """Squared error of positions and of features, summed over each molecule of `data`."""
    return (
        segment_sum((found.pos - truth.pos).square().sum(1), data.ptr),
        segment_sum((found.feats - truth.feats).square().sum(1), data.ptr),
    )


def _zeros(data: Cloud) -> Float[Tensor, " G"]:
    return torch.zeros(data.num_graphs, dtype=data.pos.dtype, device=data.pos.device)
