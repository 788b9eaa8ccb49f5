"""Where a model computes: the checks make and move structures on the CPU, and ask a model wherever it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geomol.graph import Graph

Outputs = Callable[[Graph], dict[str, Tensor]]


def device_of(model: nn.Module) -> torch.device:
    """That of its weights."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def asked_there(model: nn.Module, outputs: Outputs, graph: Graph) -> dict[str, Tensor]:
    """Outputs of a model for a graph on another device, brought back to it; differentiable all the way."""
    found = outputs(graph.to(device_of(model)))
    return {name: value.to(graph.device) for name, value in found.items()}
