"""Compiled backbones, used only where they compute what the plain ones do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.models import Compilable

TOLERANCE = 1e-3  # relative, of the gradient in float32
BF16_TOLERANCE = 5e-2  # where parts of the backbone compute in bfloat16


def compile_checked(backbone: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Compiles a backbone, and compares the gradient of a loss with that of the plain one.

    Args:
        backbone: compiled in place.
        loss: evaluates the model that holds it, with the same random numbers at each call.

    Raises:
        ConfigError: a backbone that cannot be compiled, or one whose compiled form computes something else.
    """
    if not isinstance(backbone, Compilable):
        raise ConfigError(
            "this backbone has no parts to compile", got=type(backbone).__name__, remedy="run.compile = false"
        )
    plain = _gradient(backbone, loss)
    backbone.compile_parts()
    compiled = _gradient(backbone, loss)
    difference = float((compiled - plain).norm() / plain.norm())
    most = BF16_TOLERANCE if getattr(backbone, "bf16", False) else TOLERANCE
    if not difference < most:
        raise ConfigError(
            "the compiled model does not compute what the plain one does",
            expected=f"gradients within {most}",
            got=f"{difference:.2g}",
            remedy="run.compile = false",
        )


def _gradient(backbone: nn.Module, loss: Callable[[], Tensor]) -> Float[Tensor, " W"]:
    weights = [p for p in backbone.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss(), weights, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])
