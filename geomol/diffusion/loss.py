"""What a denoiser minimises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from geomol.diffusion.cloud import Cloud
from geomol.diffusion.denoiser import Denoiser, Estimate
from geomol.diffusion.eps_model import eps_of_denoiser
from geomol.diffusion.levels import Variational
from geomol.diffusion.variational_loss import training_terms
from geomol.ops import segment_mean, sum_to_rows


@dataclass(frozen=True, eq=False)
class Clean:
    """Structures to be learned, in units of the denoiser.

    Attributes:
        cloud: positions and features.
        types: index of the element of each node.
        pairs: pairs i < j of nodes of one structure; None without a bond head.
        orders: their bond orders.
        context: values of the conditions; NaN for none.
    """

    cloud: Cloud
    types: Int[Tensor, " N"]
    pairs: Int[Tensor, "2 B"] | None = None
    orders: Int[Tensor, " B"] | None = None
    context: Float[Tensor, "G C"] | None = None


@dataclass(frozen=True)
class LossWeights:
    """Weights beside that of the positions, which is 1.

    Attributes:
        types: cross entropy (or square error) of the elements.
        bonds: cross entropy of the bond orders, summed over the pairs of each structure per atom.
        bonds_below: noise level up to which bonds are asked for; beyond it geometry does not tell them.
    """

    types: float = 0.3
    bonds: float = 0.1
    bonds_below: float = 0.3


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Terms per structure, without their weights; bonds are 0 above their level."""

    positions: Float[Tensor, " G"]
    types: Float[Tensor, " G"]
    bonds: Float[Tensor, " G"]

    def total(self, weights: LossWeights) -> Float[Tensor, ""]:
        """The weighted mean over structures."""
        return (self.positions + weights.types * self.types + weights.bonds * self.bonds).mean()


def loss_terms(
    denoiser: Denoiser,
    clean: Clean,
    level: Float[Tensor, " G"],
    noise: Cloud,
    weights: LossWeights,
    *,
    self_condition: bool = False,
) -> LossTerms:
    """Errors of the estimate behind y = x + s ε.

    Args:
        denoiser: the model.
        clean: x.
        level: s of each structure.
        noise: ε, centred.
        weights: which terms are wanted.
        self_condition: let the model see its own first estimate, through which no gradient flows.
    """
    x, dtype = clean.cloud, clean.cloud.pos.dtype
    noisy = x.plus(noise.scaled(level.to(dtype)))
    earlier = None
    if self_condition and denoiser.self_conditioning:
        with torch.no_grad():
            earlier = denoiser(noisy, level, context=clean.context)
    estimate: Estimate = denoiser(noisy, level, earlier=earlier, context=clean.context)
    weight = denoiser.levels.weight(level).to(dtype)
    error = (estimate.clean.pos - x.pos).square().mean(1)
    positions = weight * segment_mean(error, x.ptr)
    if estimate.logits is not None and denoiser.num_types:
        types = segment_mean(cross_entropy(estimate.logits, clean.types, reduction="none"), x.ptr)
    elif x.feats.shape[1]:
        types = weight * segment_mean((estimate.clean.feats - x.feats).square().sum(1), x.ptr)
    else:
        types = torch.zeros_like(positions)
    bonds = torch.zeros_like(positions)
    if denoiser.bonds is not None and clean.pairs is not None and weights.bonds > 0:
        bonds = _bond_loss(denoiser, estimate, clean, level <= weights.bonds_below)
    return LossTerms(positions, types, bonds)


def variational_terms(denoiser: Denoiser, clean: Clean, step: Int[Tensor, " G"], noise: Cloud) -> LossTerms:
    """The objective of variational diffusion, all of it under `positions`; see `training_terms`.

    Args:
        denoiser: with `Variational` levels, continuous elements and no self-conditioning.
        clean: x.
        step: t T of each structure, 0 … T.
        noise: ε, centred.
    """
    levels = denoiser.levels
    assert isinstance(levels, Variational)
    eps = eps_of_denoiser(denoiser, levels.schedule, context=clean.context)
    terms = training_terms(
        eps, clean.cloud, levels.schedule, denoiser.scaling, step=step, noise=noise, objective=levels.objective
    )
    total = terms.total.to(clean.cloud.pos.dtype)
    return LossTerms(total, torch.zeros_like(total), torch.zeros_like(total))


def _bond_loss(denoiser: Denoiser, estimate: Estimate, clean: Clean, asked: Tensor) -> Float[Tensor, " G"]:
    """Cross entropy of bond orders, summed over pairs and divided by atoms, of the structures that are asked."""
    assert clean.pairs is not None
    assert clean.orders is not None
    owner = clean.cloud.batch[clean.pairs[0]]
    rows = asked[owner].nonzero()[:, 0]
    logits = denoiser.bond_logits(estimate, clean.pairs[:, rows])
    each = cross_entropy(logits, clean.orders[rows], reduction="none")
    sizes = clean.cloud.ptr.diff().to(each.dtype)
    return sum_to_rows(each, owner[rows], len(sizes)) / sizes
