"""The inputs and outputs that a denoiser needs, filled into the settings of a backbone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

from geomol.errors import ConfigError
from geomol.symmetry import BACKBONES


def fit_backbone(
    config: Mapping[str, object],
    *,
    num_types: int,
    num_conditions: int = 0,
    self_conditioning: bool = True,
    bond_channels: int = 0,
    frame: bool = False,
    cutoff: float = float("inf"),
) -> dict[str, object]:
    """The configuration of a backbone with the inputs and outputs that a denoiser needs; what it names itself stays.

    A symmetriser passes them on to the backbone that it wraps.

    Args:
        config: name and arguments of the backbone.
        num_types: features of a node, the charge included.
        num_conditions, self_conditioning, bond_channels, frame: as of the `Denoiser`.
        cutoff: of its edges.

    Raises:
        ConfigError: a frame for a backbone that reads no vectors.
    """
    if isinstance(inner := config.get("backbone"), Mapping):
        fitted = fit_backbone(
            inner,
            num_types=num_types,
            num_conditions=num_conditions,
            self_conditioning=self_conditioning,
            bond_channels=bond_channels,
            frame=frame,
            cutoff=cutoff,
        )
        return {**config, "backbone": fitted}
    conditions = 3 + 2 * num_conditions
    wanted: dict[str, object] = {
        "in_scalars": num_types + (num_types + 1) * self_conditioning + conditions,
        "num_conditions": conditions,
        "step_condition": True,
        "in_vectors": int(self_conditioning) + 3 * frame,
        "out_scalars": max(1, num_types + bond_channels),  # points have none, but few networks end in no scalar
        "out_vectors": 1,
        "cutoff": cutoff,
        "envelope": math.isfinite(cutoff),
    }
    if frame:
        wanted["frame"] = "given"
    readers = inspect.signature(BACKBONES[str(config["name"])].__init__).parameters
    if frame and "in_vectors" not in readers:
        raise ConfigError(f'model "{config["name"]}" reads no vectors, so that it cannot be told a frame')
    return {**{key: value for key, value in wanted.items() if key in readers}, **config}
