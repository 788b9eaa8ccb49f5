"""What trains a variational diffusion: the plain squared error of the noise, or the bound itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.diffusion.cloud import Cloud
from geomol.diffusion.eps_model import EpsNetwork
from geomol.diffusion.likelihood import kl_prior, position_constants, squared_error
from geomol.diffusion.scaling import FeatureScaling, log_prob_charges, log_prob_types
from geomol.diffusion.schedules import Schedule, sigma
from geomol.diffusion.variational import diffuse
from geomol.errors import ConfigError

OBJECTIVES = ("l2", "vlb")


@dataclass(frozen=True, eq=False)
class TrainingTerms:
    """Loss of each molecule.

    Attributes:
        total: the loss; −ln p(n), on which nothing depends that is trained, is not part of it.
        kl_prior: see `NLL`; depends on a learned schedule only.
        step: the term of the time drawn, with its weight.
        constants: with the volume term; 0 for "l2".
        reconstruction: −ln p(x, h | z) without constants, which is the term of t = 0, for every molecule.
    """

    total: Float[Tensor, " G"]
    kl_prior: Float[Tensor, " G"]
    step: Float[Tensor, " G"]
    constants: Float[Tensor, " G"]
    reconstruction: Float[Tensor, " G"]


def draw_steps(num: int, schedule: Schedule, generator: torch.Generator) -> Int[Tensor, " {num}"]:
    """Steps uniform on 0 … T, as training wants them, on the CPU."""
    return torch.randint(0, schedule.num_steps + 1, (num,), generator=generator)


def training_terms(
    eps: EpsNetwork,
    data: Cloud,
    schedule: Schedule,
    scaling: FeatureScaling,
    *,
    step: Int[Tensor, " G"],
    noise: Cloud,
    objective: str = "l2",
    num_padded: int | None = None,
) -> TrainingTerms:
    """Training loss of each molecule at given steps and noise; one call of the network.

    "l2": ½ |ε − ε̂|² / ((3 + F) n), without the weight that the bound has; "vlb": the bound, with one of its T + 1 terms
    standing for all. At step 0 the term is −ln p(x, h | z₀), in "l2" with its position part divided alike.

    Source: Hoogeboom et al. 2022 (arXiv:2203.17003), algorithm 1 and the authors' code. Departs from the code in "l2":
    there n is the padded number of atoms, that of the largest molecule of the batch, so that the loss of one molecule
    depends on the others; here it is the molecule's own, unless `num_padded` says otherwise.

    Args:
        eps: the ε-network.
        data: clean molecules.
        schedule: γ.
        scaling: of the features.
        step: t T of each molecule, 0 … T, see `draw_steps`.
        noise: standard normal, centred.
        objective: "l2" or "vlb".
        num_padded: n of all molecules in "l2", such as the size of the largest; None for their own.

    Raises:
        ConfigError: another objective, or a learned schedule with "l2", which would drive it to trivial noise.
    """
    if objective not in OBJECTIVES:
        raise ConfigError("unknown objective", expected=" or ".join(OBJECTIVES), got=objective)
    plain = objective == "l2"
    if plain and schedule.is_learned:
        raise ConfigError("a learned schedule needs the variational objective", remedy='use objective "vlb"')
    t = step.to(data.pos.dtype) / schedule.num_steps
    before = (step - 1).clamp(min=0).to(data.pos.dtype) / schedule.num_steps
    gamma_t = schedule.gamma(t)
    noisy = diffuse(data, noise, gamma_t)
    in_pos, in_feats = squared_error(eps(noisy, t), noise, data)
    if plain:
        n = data.ptr.diff() if num_padded is None else torch.full_like(step, num_padded)
        by = (3 + data.feats.shape[1]) * n.to(in_pos.dtype)
        in_pos, in_feats = in_pos / by, in_feats / by
    width = sigma(gamma_t)
    told = log_prob_types(noisy, data, width, scaling) + log_prob_charges(noisy, data, width, scaling)
    reconstruction = 0.5 * in_pos - told
    weight = torch.ones_like(gamma_t) if plain else torch.expm1(gamma_t - schedule.gamma(before))
    term = torch.where(step == 0, reconstruction, 0.5 * weight * (in_pos + in_feats))
    prior = kl_prior(data, schedule)
    if plain:
        constants = torch.zeros_like(term)
    else:
        term = term * (schedule.num_steps + 1)
        constants = position_constants(data, schedule) + scaling.log_volume(data.ptr)
    return TrainingTerms(prior + term + constants, prior, term, constants, reconstruction)
