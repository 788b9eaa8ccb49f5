"""The inputs and outputs that a denoiser needs, filled into the settings of a backbone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from geomol.symmetry import BACKBONES


def fit_backbone(
    config: Mapping[str, object],
    *,
    num_types: int,
    num_conditions: int = 0,
    self_conditioning: bool = True,
    bond_channels: int = 0,
) -> dict[str, object]:
    """The configuration of a backbone with the inputs and outputs that a denoiser needs; what it names itself stays.

    A symmetriser passes them on to the backbone that it wraps.
    """
    if isinstance(inner := config.get("backbone"), Mapping):
        fitted = fit_backbone(
            inner,
            num_types=num_types,
            num_conditions=num_conditions,
            self_conditioning=self_conditioning,
            bond_channels=bond_channels,
        )
        return {**config, "backbone": fitted}
    conditions = 3 + 2 * num_conditions
    wanted: dict[str, object] = {
        "in_scalars": num_types + (num_types + 1) * self_conditioning + conditions,
        "num_conditions": conditions,
        "step_condition": True,
        "in_vectors": int(self_conditioning),
        "out_scalars": num_types + bond_channels,
        "out_vectors": 1,
        "cutoff": float("inf"),
        "envelope": False,
    }
    readers = inspect.signature(BACKBONES[str(config["name"])].__init__).parameters
    return {**{key: value for key, value in wanted.items() if key in readers}, **config}
