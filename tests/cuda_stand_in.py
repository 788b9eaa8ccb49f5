"""Tensors on a CPU that say they are on a CUDA device, and the operators that are called on them.

So the code for a GPU runs where there is none. Nothing below the operators is tested: kernels are those of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

# they add floats by atomics on a CUDA device, in no fixed order
UNORDERED = {"aten::index_add", "aten::index_add_", "aten::scatter_add", "aten::scatter_add_"}


class OnCUDA(torch.Tensor):
    """A tensor whose `is_cuda` is true; what is computed from it is one too."""

    called: ClassVar[list[str] | None] = None
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnCUDA:
        made: OnCUDA = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner.detach()
        return made

    is_cuda = True
    is_cpu = False

    def __repr__(self) -> str:
        return f"OnCUDA({self.inner!r})"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if cls.called is not None and isinstance(args[0], Tensor) and args[0].is_floating_point():
            cls.called.append(function._schema.name)
        inner = tree_map(lambda x: x.inner if isinstance(x, OnCUDA) else x, (args, kwargs or {}))
        found = function(*inner[0], **inner[1])
        return tree_map(lambda x: OnCUDA(x) if isinstance(x, Tensor) else x, found)


def on_cuda(values: Tensor) -> Tensor:
    """The same values, differentiable as they were."""
    return OnCUDA(values).requires_grad_(values.requires_grad)


@contextmanager
def unordered_sums() -> Iterator[Callable[[], list[str]]]:
    """Inside a `with` block, the operators called so far whose sums would not repeat on a CUDA device."""
    OnCUDA.called = called = []
    try:
        yield lambda: [name for name in called if name in UNORDERED]
    finally:
        OnCUDA.called = None
