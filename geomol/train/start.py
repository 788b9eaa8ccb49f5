"""Fine-tuning: training that begins from the weights of a trained model."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from geomol.checkpoint import Model, load_model
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError

CONDITIONS = "embed_cond.0.weight"  # of a backbone that reads conditions apart from its nodes

_log = logging.getLogger(__name__)


def start_from(model: Model, path: str) -> None:
    """Gives `model` the learned weights of the one at `path`; what follows from the data (offsets, scales) stays.

    A denoiser may be told more than the trained one was: the new conditions begin without any effect.

    Raises:
        ConfigError: a model of another kind, for other elements, or with other layers.
        CheckpointError, SecurityError: see `load_model`.
    """
    trained = load_model(path, dtype=model.dtype)
    for what, old, new in (
        ("kind", type(trained).__name__, type(model).__name__),
        ("elements", str(list(trained.elements)), str(list(model.elements))),
    ):
        if old != new:
            raise ConfigError(f"run.start names a model of other {what}", where=path, expected=new, got=old)
    given, own = dict(trained.named_parameters()), dict(model.named_parameters())
    added = model.added_conditions(trained) if isinstance(model, Denoiser) and isinstance(trained, Denoiser) else []
    weights: dict[str, Tensor] = {}
    for name, weight in given.items():
        weights[name] = weight
        if added and name.endswith(CONDITIONS):
            wider = weight.new_zeros(weight.shape[0], weight.shape[1] + len(added))
            kept = [column for column in range(wider.shape[1]) if column not in added]
            wider[:, kept] = weight.detach()
            weights[name] = wider
    strange = sorted(weights.keys() ^ own.keys()) or [n for n, w in weights.items() if w.shape != own[n].shape]
    if strange:
        raise ConfigError(
            "run.start names a model with other layers",
            where=path,
            expected="the same weights, but for the conditions of a ConditionedEGNN",
            got=f"{len(strange)} differ, among them {', '.join(strange[:3])}",
            remedy="take over its [model] settings",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    _log.info("%s: %d weights to start from", path, sum(p.numel() for p in own.values()))
