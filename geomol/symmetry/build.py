"""Backbones by name: architectures, and the symmetrisers that wrap them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from torch import nn

from geomol.errors import ConfigError, nearest
from geomol.models import MODELS
from geomol.symmetry.augmentation import LearnedAugmentation, TestTimeAverage
from geomol.symmetry.canonical import Canonicalised
from geomol.symmetry.frame_averaging import FrameAveraging
from geomol.symmetry.galilean import Galilean
from geomol.symmetry.orbit_distance import OrbitDistance
from geomol.symmetry.part_frames import PartFrames
from geomol.symmetry.part_networks import LearnedParts
from geomol.symmetry.poses import Symmetriser
from geomol.symmetry.probabilistic import ProbabilisticSymmetrisation

SYMMETRISERS: dict[str, type[Symmetriser]] = {
    "canonical": Canonicalised,
    "frame_averaging": FrameAveraging,
    "galilean": Galilean,
    "learned_augmentation": LearnedAugmentation,
    "orbit_distance": OrbitDistance,
    "part_frames": PartFrames,
    "probabilistic": ProbabilisticSymmetrisation,
    "test_time_average": TestTimeAverage,
}
BACKBONES: dict[str, type[nn.Module]] = {**MODELS, **SYMMETRISERS}


def build_backbone(config: Mapping[str, object]) -> nn.Module:
    """A backbone from {"name": …, **constructor arguments}; a symmetriser holds another such under "backbone".

    Raises:
        ConfigError: unknown name or arguments.
    """
    arguments = dict(config)
    name = str(arguments.pop("name", None))
    if name not in BACKBONES:
        raise ConfigError(f'unknown model "{name}"', remedy=nearest(name, BACKBONES))
    if name in SYMMETRISERS:
        inner = arguments.get("backbone")
        if not isinstance(inner, Mapping):
            raise ConfigError(f'"{name}" wraps another model', expected='backbone = {name = "…", …}', got=repr(inner))
        arguments["backbone"] = build_backbone(inner)
    if isinstance(parts := arguments.get("parts"), Mapping) and isinstance(whole := parts.get("backbone"), Mapping):
        arguments["parts"] = {**parts, "backbone": build_backbone(whole)}
    given = arguments.get("channels", 1)
    if any(isinstance(width, int) and width < 1 for width in (given if isinstance(given, Sequence) else [given])):
        raise ConfigError("a model needs at least one channel", where=name, got=f"channels = {given}")
    try:
        return BACKBONES[name](**arguments)
    except TypeError as error:
        raise ConfigError(f'arguments of model "{name}"', got=str(error)) from error


def backbone_config(backbone: nn.Module) -> dict[str, object]:
    """The configuration from which `build_backbone` makes an untrained copy.

    Raises:
        ConfigError: a class outside `MODELS` and `SYMMETRISERS`, which no file could name.
    """
    name = next((name for name, cls in BACKBONES.items() if type(backbone) is cls), None)
    if name is None:
        kind = type(backbone).__name__
        raise ConfigError(f"{kind} is not in MODELS", remedy="add it there to save potentials made of it")
    config: dict[str, object] = {"name": name, **backbone.config}  # type: ignore[dict-item]
    if isinstance(backbone, Symmetriser):
        config["backbone"] = backbone_config(backbone.backbone)
    if isinstance(backbone, PartFrames) and isinstance(backbone.parts, LearnedParts):
        config["parts"] = {**config["parts"], "backbone": backbone_config(backbone.parts.backbone)}  # type: ignore[dict-item]
    return config


def with_elements(config: Mapping[str, object], elements: Sequence[int]) -> dict[str, object]:
    """The configuration with `elements` given to the backbones that read them, unless they name their own."""
    if isinstance(parts := config.get("parts"), Mapping):
        config = {**config, "parts": with_elements(parts, elements)}
    if isinstance(inner := config.get("backbone"), Mapping):
        return {**config, "backbone": with_elements(inner, elements)}
    if config.get("name") not in BACKBONES:  # parts that read nothing
        return dict(config)
    readers = inspect.signature(BACKBONES[str(config["name"])].__init__).parameters
    return {"elements": list(elements), **config} if "elements" in readers else dict(config)
