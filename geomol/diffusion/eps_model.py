"""ε-networks of variational diffusion: a backbone as in EDM, or any denoiser of levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.diffusion.cloud import Cloud
from geomol.diffusion.denoiser import Denoiser
from geomol.diffusion.schedules import Schedule, alpha
from geomol.errors import ConfigError
from geomol.graph import complete_graph


class EpsNetwork(Protocol):
    """The noise expected in z_t at times t in [0, 1], positions without their mean."""

    def __call__(self, cloud: Cloud, t: Float[Tensor, " G"], /) -> Cloud: ...


class EpsModel(nn.Module):
    """ε̂(z_t, t) as in EDM: node inputs [features, t, context]; vectors without their mean, first F scalars.

    Source: Hoogeboom et al. 2022 (arXiv:2203.17003), section 3.2. The backbone has in_scalars = F + 1 and the columns
    of the context, at least F out_scalars (those beyond, of time and context, are dropped) and one vector. Equivariant
    and permutation equivariant as far as the backbone is; the vectors have zero mean per structure.

    Args:
        backbone: network on complete graphs.

    Raises:
        ConfigError: at call, a backbone without enough scalars or without vectors.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, cloud: Cloud, t: Float[Tensor, " G"], context: Float[Tensor, "N K"] | None = None) -> Cloud:
        """The noise in `cloud`, whose positions are centred."""
        columns = [cloud.feats, t.to(cloud.feats.dtype)[cloud.batch][:, None]]
        if context is not None:
            columns.append(context.to(cloud.feats.dtype))
        blank = torch.zeros_like(cloud.batch)
        out = self.backbone(complete_graph(cloud.pos, blank, cloud.ptr, node_scalars=torch.cat(columns, dim=1)))
        num = cloud.feats.shape[1]
        if out.vectors is None or out.vectors.shape[1] < 1 or out.scalars.shape[1] < num:
            raise ConfigError(f"an ε-network needs a vector and at least {num} scalars per node")
        pos, feats = out.vectors[:, 0].to(cloud.pos.dtype), out.scalars[:, :num].to(cloud.feats.dtype)
        return cloud.replace(pos, feats).centred()


def eps_of_denoiser(
    denoiser: Denoiser, schedule: Schedule, *, context: Float[Tensor, "G C"] | None = None
) -> Callable[[Cloud, Tensor], Cloud]:
    """The ε-network that a denoiser of levels s = σ/α amounts to: ε̂ = (y − x̂(y, s))/s with y = z/α.

    So its likelihood can be had, and samples by ancestral steps, in its own units, `Denoiser.scaling`. Without
    self-conditioning.
    """

    def eps(cloud: Cloud, t: Tensor) -> Cloud:
        gamma = schedule.gamma(t)
        level = torch.exp(0.5 * gamma)
        noisy = cloud.scaled((1 / alpha(gamma)).to(cloud.pos.dtype))
        estimate = denoiser(noisy, level.to(cloud.pos.dtype), context=context)
        difference = noisy.plus(estimate.clean.scaled(-1.0))
        return difference.scaled((1 / level).to(cloud.pos.dtype)).centred()

    return eps
