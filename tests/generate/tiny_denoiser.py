"""A denoiser of random weights that is quick, and whose molecules hang together better than chance."""

from __future__ import annotations

import torch

from geomol.diffusion import Denoiser, build_levels, fit_backbone
from geomol.symmetry import build_backbone

ELEMENTS = [1, 6, 8]
BACKBONE = {"name": "conditioned_egnn", "channels": 12, "pair_channels": 6, "num_layers": 2, "num_vectors": 3}


def tiny_denoiser(
    *,
    dtype: torch.dtype = torch.float64,
    bond_channels: int = 4,
    conditions: dict[str, tuple[float, float]] | None = None,
    levels: dict[str, object] | None = None,
    types: str = "cross_entropy",
) -> Denoiser:
    """Every weight is moved off its start, so that all inputs count."""
    config = fit_backbone(
        BACKBONE, num_types=len(ELEMENTS), num_conditions=len(conditions or {}), bond_channels=bond_channels
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = Denoiser(
            build_backbone(config),
            elements=ELEMENTS,
            levels=build_levels(levels or {"name": "karras"}),
            bond_channels=bond_channels,
            conditions=conditions,
            types=types,
            sizes={4: 1, 5: 3, 7: 2, 9: 4},
        ).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return made.to(dtype).eval()
