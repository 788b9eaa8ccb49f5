"""Which layer breaks the symmetry: the Lie derivative of the whole as a sum of one share per layer.

Let T_k be the derivative of the output along a generator when the outputs of layers 1 … k change exactly as declared
(invariants not at all, vectors by A v), while positions flow on into the later layers. Then T_0 is the true derivative,
T_K is left to what follows the last layer, and

    L_A f = Σ_k (T_{k−1} − T_k) + (T_K − dρ(A) f),

where T_{k−1} − T_k = J_{f_K … f_{k+1}} (L_A f_k) is what layer k alone does wrong, carried to the output. For a plain
chain of layers this is the decomposition of arXiv:2210.02984; it holds as well where every layer sees the positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.symmetry.actions import Kind, flow, tangent_of_target
from geomol.symmetry.audit.lie import centres, choose_method, derivative
from geomol.symmetry.audit.model import Model
from geomol.symmetry.groups import Generator

LAYER_ACTIONS = ("invariant", "vector")
READOUT = "readout"
"""Name of the share of everything after the last layer."""

Shares = dict[str, dict[str, Tensor]]


def layer_shares(
    model: Model,
    graph: Graph,
    kinds: Mapping[str, Kind],
    generator: Generator,
    layers: Mapping[str, nn.Module],
    *,
    actions: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Shares:
    """The share of each layer in L_A f: for each output, a tensor per layer and one for the rest ("readout").

    The shares sum to the Lie derivative. Outputs must not be derivatives of what passes through the layers (a force is
    one, an energy is not).

    Args:
        model, graph, kinds: what to differentiate, where, and how the outputs transform.
        generator: a translation or rotation.
        layers: the modules, in the order in which they run.
        actions: how each layer's floating outputs transform: "invariant" (the default) or "vector" (last axis of 3).
        method: of `METHODS`; the best that works by default.

    Raises:
        ConfigError: an unknown action.
    """
    actions = {} if actions is None else actions
    for name, action in actions.items():
        if action not in LAYER_ACTIONS:
            raise ConfigError(f'unknown action of layer "{name}"', expected=" or ".join(LAYER_ACTIONS), got=action)
    method = choose_method(model, graph, kinds) if method is None else method
    centre = centres(graph)
    base = _outputs(model, graph, layers)
    rates = []
    for count in range(len(layers) + 1):
        held = {name: (layers[name], base[name], actions.get(name, "invariant")) for name in list(layers)[:count]}

        clock: list[Tensor] = []

        def path(t: Tensor, clock: list[Tensor] = clock) -> Graph:
            clock.append(t)
            return flow(generator, graph, centre, t)

        with _held(held, generator, clock):
            rates.append(derivative(model, path, kinds, method=method, at=graph.pos))
    value = {name: tensor.detach() for name, tensor in model(graph).items() if name in kinds}
    shares: Shares = {}
    for output, kind in kinds.items():
        parts = {name: rates[k][output] - rates[k + 1][output] for k, name in enumerate(layers)}
        parts[READOUT] = rates[-1][output] - tangent_of_target(kind, value[output], generator, graph, centre)
        shares[output] = parts
    return shares


def _outputs(model: Model, graph: Graph, layers: Mapping[str, nn.Module]) -> dict[str, list[Any]]:
    """What each layer gives at t = 0, at each of its calls."""
    seen: dict[str, list[Any]] = {name: [] for name in layers}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, arguments, out: seen[name].append(_map(torch.Tensor.detach, out))

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        model(graph)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def _held(
    held: Mapping[str, tuple[nn.Module, list[Any], str]], generator: Generator, clock: list[Tensor]
) -> Iterator[None]:
    """Within the block these layers change along the flow exactly as declared, whatever they compute."""

    def replace(base: list[Any], action: str) -> Callable[..., Any]:
        state = {"runs": 0, "calls": 0}

        def hook(module: nn.Module, arguments: object, out: object) -> Any:
            if state["runs"] != len(clock):
                state["runs"], state["calls"] = len(clock), 0
            kept = base[state["calls"]]
            state["calls"] += 1
            return _map(lambda value: _moved(value, clock[-1], generator, action), kept)

        return hook

    handles = [module.register_forward_hook(replace(base, action)) for module, base, action in held.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _moved(value: Tensor, t: Tensor, generator: Generator, action: str) -> Tensor:
    if action == "invariant" or not value.is_floating_point() or value.shape[-1:] != (3,):
        return value
    return value + t.to(value.dtype) * (value @ generator.matrix.to(value).T)


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The function applied to every tensor of a (nested) tuple, list or dict."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)(_map(function, item) for item in value)
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    return value
