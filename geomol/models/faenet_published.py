"""Settings of FAENet as published, for the four benchmarks of its authors."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from geomol.errors import ConfigError, nearest

_OC20: dict[str, Any] = {
    "cutoff": 6.0,
    "deep_embedding": False,
    "deep_update": True,
    "graph_norm": True,
    "atom_weights": "final",
    "in_scalars": 1,
    "period_group_channels": 64,
}
_SETTINGS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "oc20-is2re": {
            **_OC20,
            "channels": 384,
            "filters": 480,
            "num_radial": 104,
            "num_layers": 5,
            "message": "base",
            "tag_channels": 64,
            "skip": "concat",
        },
        "oc20-s2ef": {
            **_OC20,
            "channels": 256,
            "filters": 480,
            "num_radial": 136,
            "num_layers": 7,
            "tag_channels": 32,
            "out_vectors": 1,
            "vector_head": "mlp",
            "vector_channels": 256,
            "vector_norm": "batch",
        },
        "qm9": {
            "channels": 400,
            "filters": 480,
            "num_radial": 100,
            "num_layers": 5,
            "cutoff": 6.0,
            "deep_update": True,
            "graph_norm": True,
            "period_group_channels": 32,
        },
        "qm7x": {
            "channels": 500,
            "filters": 400,
            "num_radial": 50,
            "num_layers": 5,
            "cutoff": 5.0,
            "deep_update": True,
            "skip": "concat",
            "period_group_channels": 32,
            "out_vectors": 1,
            "vector_head": "res_updown",
            "vector_channels": 128,
            "vector_norm": "batch",
        },
    }
)


def published_settings(name: str) -> dict[str, Any]:
    """Constructor arguments of `FAENet` for "oc20-is2re", "oc20-s2ef", "qm9" or "qm7x".

    Source: `configs-faenet` of the authors' repository; frames, data and optimisers are not part of the backbone.
    "oc20-is2re" and "qm7x" were used with 14 standardised properties of each element; give them as `properties`, they
    are not part of this project. None of the four has a smooth cutoff: not for molecular dynamics.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in _SETTINGS:
        raise ConfigError(f'no published settings "{name}"', remedy=nearest(name, _SETTINGS))
    return {"envelope": False, "message": "updownscale_base", "elements": [], **_SETTINGS[name]}
