"""Small FAENets of every kind of message, and potentials made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from geomol import checks
from geomol.models.faenet import FAENet
from geomol.models.faenet_layers import MESSAGES
from geomol.potential import Potential

ELEMENTS = [1, 6, 7, 8, 11, 14, 17, 26, 29]
VARIANTS: dict[str, dict[str, Any]] = {
    **{message: {"message": message} for message in MESSAGES},
    "add": {"skip": "add", "deep_update": True},
    "concat": {"skip": "concat", "atom_weights": "initial", "deep_embedding": False},
    "concat_atom": {"skip": "concat_atom", "atom_weights": "final", "period_group_channels": 2},
}
every_variant = pytest.mark.parametrize("variant", list(VARIANTS))


def make(variant: str = "updownscale_base", **changes: Any) -> FAENet:
    """A small model with all its parameters moved off their start, so that every one of them matters."""
    settings = {"elements": ELEMENTS, "channels": 16, "filters": 16, "num_layers": 3, "num_radial": 8, "cutoff": 4.0}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = FAENet(**{**settings, **VARIANTS[variant], **changes}).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def potential_of(model: FAENet) -> Potential:
    return Potential(
        model, elements=ELEMENTS, e0=[-0.1 * z for z in ELEMENTS], allow_discontinuous=not model.symmetry.smooth
    )


def energies(model: FAENet, *structures: Atoms) -> np.ndarray:
    return checks.energy_of(potential_of(model), structures)
