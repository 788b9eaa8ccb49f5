"""Initial weights whose scale is measured instead of assumed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def unit_variance(model: nn.Module, forward: Callable[[], object]) -> None:
    """Scales the linear layers of an untrained network, in the order of execution, to outputs of unit standard
    deviation.

    With PyTorch's default scale, each linear layer followed by SiLU shrinks the spread of its input about threefold;
    after a few layers what depends on geometry is lost beside what does not, and training has to find it again. Source:
    layer-sequential unit variance, Mishkin, Matas, ICLR 2016 (arXiv:1511.06422). Departures: biases are scaled with the
    weights, there is no orthogonal start, and the layer executed last, the readout, is left alone.

    Args:
        model: its `nn.Linear` modules are scaled in place.
        forward: evaluates the model on typical inputs.
    """
    order: list[nn.Linear] = []

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        order.append(module)

    hooks = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, nn.Linear)]
    forward()
    for hook in hooks:
        hook.remove()
    for layer in order[:-1]:
        spread = _output_spread(layer, forward)
        if spread > 0:
            layer.weight.div_(spread)
            if layer.bias is not None:
                layer.bias.div_(spread)


def _output_spread(layer: nn.Linear, forward: Callable[[], object]) -> float:
    """Standard deviation of what a layer puts out during `forward`."""
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    forward()
    hook.remove()
    return float(outputs[-1].std())
