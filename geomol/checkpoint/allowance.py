"""A limit on what building a model may allocate, so that a file of 2 kB cannot ask for all memory or all day."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# A constructor allocates its weights once and a few small tables beside them; these factors leave it ample room.
ELEMENTS_PER_STORED = 16
ELEMENTS_FREE = 4_000_000
ELEMENTS_PER_CALL = 1_000  # what making a tensor costs, however small, so that endless loops end too

_SIZED = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.arange}
_TOO_MUCH = "it asks for far more memory than its weights hold"


class Allowance(TorchFunctionMode):
    """While active in this thread, new tensors may add up to a fixed multiple of the stored ones, no more.

    Counted are tensors made from sizes or values (`empty`, `zeros`, `tensor`, ...), not results computed from tensors.

    Raises:
        MemoryError: from the call that exceeds the limit, before memory of that size is touched.
    """

    def __init__(self, stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        elements = sum(tensor.numel() + ELEMENTS_PER_CALL for tensor in stored.values())
        self.left = ELEMENTS_PER_STORED * elements + ELEMENTS_FREE

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _SIZED and _size(args) > self.left:
            raise MemoryError(_TOO_MUCH)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not any(isinstance(value, Tensor) for value in args):
            self.left -= result.numel() + ELEMENTS_PER_CALL
            if self.left < 0:
                raise MemoryError(_TOO_MUCH)
        return result


def _size(args: tuple[Any, ...]) -> int:
    """Elements that a factory makes from these arguments, at least: sizes multiply, and a range ends at its largest."""
    sizes = [int(n) for arg in args for n in (arg if isinstance(arg, tuple | list) else [arg]) if isinstance(n, int)]
    return max([math.prod(sizes), *sizes])
