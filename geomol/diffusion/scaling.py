"""Types and charges as continuous features: scaled for the network, discretised for the likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from geomol.diffusion.cloud import Cloud, zero_mean
from geomol.diffusion.schedules import Schedule, sigma
from geomol.errors import ConfigError
from geomol.ops import segment_sum

_NUM_SIGMAS = 8  # of the noise at t = 0 that must fit between two values of a feature
_TINY = 1e-10  # inside every logarithm of a probability, as in the authors' code


@dataclass(frozen=True)
class FeatureScaling:
    """How molecules become clouds: x/norm_x, one-hot types/norm_types, and the charge (or any integer)/norm_charge.

    Source: Hoogeboom et al. 2022 (arXiv:2203.17003), appendix C: small features are decided after the geometry.
    Released models: (1, 4, 10) for QM9 and GEOM-Drugs, (1, 8, no charge) for conditional ones.

    Attributes:
        num_types: columns of the one-hot types; 0 for points without types.
        pos: norm_x, Å.
        types: norm_types.
        charge: norm_charge; None for no such column, which is the last.

    Raises:
        ConfigError: a norm that is not positive.
    """

    num_types: int
    pos: float = 1.0
    types: float = 4.0
    charge: float | None = 10.0

    def __post_init__(self) -> None:
        if self.num_types < 0 or not min(self.pos, self.types, self.charge or 1.0) > 0 or self.charge == 0:
            raise ConfigError("norms of features must be positive", got=str(self))

    @property
    def num_feats(self) -> int:
        """Columns F of a cloud."""
        return self.num_types + (self.charge is not None)

    def encode(
        self,
        pos: Float[Tensor, "N 3"],
        types: Int[Tensor, " N"],
        charges: Int[Tensor, " N"] | None,
        ptr: Int[Tensor, " P"],
    ) -> Cloud:
        """Molecules as centred clouds.

        Args:
            pos: Å; the precision of the result.
            types: index of each atom's type.
            charges: the integer of each atom (EDM: atomic number), where the scaling has one.
            ptr: bounds of the molecules.

        Raises:
            ConfigError: types outside the columns, or integers where they do not belong (or none where they do).
        """
        if (charges is None) != (self.charge is None):
            raise ConfigError("the scaling and the molecules differ in whether atoms have a charge")
        columns = []
        if self.num_types:
            if len(types) and not 0 <= int(types.min()) <= int(types.max()) < self.num_types:
                raise ConfigError("types outside the scaling", expected=f"0 to {self.num_types - 1}")
            columns.append(one_hot(types, self.num_types).to(pos.dtype) / self.types)
        if charges is not None and self.charge is not None:
            columns.append(charges.to(pos.dtype)[:, None] / self.charge)
        feats = torch.cat(columns, dim=1) if columns else pos.new_zeros(len(pos), 0)
        return Cloud(zero_mean(pos, ptr) / self.pos, feats, ptr)

    def decode(self, cloud: Cloud) -> tuple[Float[Tensor, "N 3"], Int[Tensor, " N"], Int[Tensor, " N"] | None]:
        """Positions in Å, likeliest types and nearest charges.

        All columns of types count; the authors' code drops the last one where there are no charges.
        """
        found = cloud.feats[:, : self.num_types]
        types = found.argmax(1) if self.num_types else torch.zeros_like(cloud.batch)
        charges = None if self.charge is None else torch.round(cloud.feats[:, -1] * self.charge).long()
        return cloud.pos * self.pos, types, charges

    def log_volume(self, ptr: Int[Tensor, " P"]) -> Float[Tensor, " G"]:
        """ln of the volume that scaling of positions divides by, 3 (n − 1) ln norm_x: −ln p of molecules gets it added.

        Types and charges have probabilities, not densities, and need none.
        """
        return 3 * (ptr.diff() - 1).double() * torch.tensor(self.pos, dtype=torch.float64).log()


def check_scaling(schedule: Schedule, scaling: FeatureScaling) -> None:
    """8 σ₀ ≤ 1/max(norm): the noise left at t = 0 must not hide which value a feature has.

    A learned schedule moves its end points in training and is not checked, as published.

    Raises:
        ConfigError: features too small for the schedule.
    """
    if schedule.is_learned:
        return
    norms = ([scaling.types] if scaling.num_types else []) + ([] if scaling.charge is None else [scaling.charge])
    least = float(sigma(schedule.gamma(torch.zeros(1, dtype=torch.float64)))[0])
    if norms and _NUM_SIGMAS * least > 1 / max(norms):
        raise ConfigError(
            "the noise at t = 0 hides the features",
            expected=f"8 σ₀ ≤ 1/max(norm) = {1 / max(norms):.4g}",
            got=f"8 σ₀ = {_NUM_SIGMAS * least:.4g}",
            remedy="use a smaller precision of the schedule or smaller norms of types and charge",
        )


def log_prob_types(
    noisy: Cloud, data: Cloud, sigma_0: Float[Tensor, " G"], scaling: FeatureScaling
) -> Float[Tensor, " G"]:
    """ln p(types | z₀) of each molecule: ∫ of a normal around each column of z₀ over 1 ± ½, normalised over columns.

    Source: arXiv:2203.17003, section 3.3. `data` holds the scaled one-hot types of the truth.
    """
    if scaling.num_types == 0:
        return sigma_0.new_zeros(noisy.num_graphs)
    width = (sigma_0 * scaling.types)[noisy.batch][:, None]
    off = noisy.feats[:, : scaling.num_types] * scaling.types - 1
    log_p = torch.log_softmax(_log_interval(off, width), dim=1)
    return segment_sum((log_p * data.feats[:, : scaling.num_types] * scaling.types).sum(1), noisy.ptr)


def log_prob_charges(
    noisy: Cloud, data: Cloud, sigma_0: Float[Tensor, " G"], scaling: FeatureScaling
) -> Float[Tensor, " G"]:
    """ln p(charges | z₀) of each molecule: ∫ of a normal around that of z₀ over the true integer ± ½."""
    if scaling.charge is None:
        return sigma_0.new_zeros(noisy.num_graphs)
    width = (sigma_0 * scaling.charge)[noisy.batch]
    off = torch.round(data.feats[:, -1] * scaling.charge) - noisy.feats[:, -1] * scaling.charge
    return segment_sum(_log_interval(off, width), noisy.ptr)


def _log_interval(off: Float[Tensor, "*S"], width: Float[Tensor, "*W"]) -> Float[Tensor, "*S"]:
    """ln ∫ over off ± ½ of a centred normal of the given standard deviation, + 1e-10 inside the logarithm."""
    high, low = torch.special.ndtr((off + 0.5) / width), torch.special.ndtr((off - 0.5) / width)
    return torch.log(high - low + _TINY)
