"""Where a model computes: the checks make and move structures on the CPU, and ask a model wherever it is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from geomol.graph import Graph
from geomol.nn import device_of

Outputs = Callable[[Graph], dict[str, Tensor]]


def asked_there(model: nn.Module, outputs: Outputs, graph: Graph) -> dict[str, Tensor]:
    """Outputs of a model for a graph on another device, brought back to it; differentiable all the way."""
    found = outputs(graph.to(device_of(model)))
    return {name: value.to(graph.device) for name, value in found.items()}
