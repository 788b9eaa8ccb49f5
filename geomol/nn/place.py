"""Where a module computes."""

from __future__ import annotations

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """That of its weights; the CPU where it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
