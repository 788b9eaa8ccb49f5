"""Which implementation of an operator runs: the fused kernels on a CUDA device with Triton, PyTorch elsewhere.

The Triton kernels agree with PyTorch in Triton's interpreter and compile for sm_90; they have not run on a device yet.
`tests/gpu` is what to run first on one.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor


@cache
def has_triton() -> bool:
    """Whether Triton is installed; asked once, without importing it."""
    return find_spec("triton") is not None


def use_triton(values: Tensor) -> bool:
    """Whether an operator on these values runs as a fused kernel."""
    return values.is_cuda and values.is_floating_point() and has_triton()


@cache
def fused(name: str) -> ModuleType:
    """The module of kernels of this name: Triton takes a second to import, so only who runs a kernel pays for it."""
    return import_module(f"geomol.ops.triton_{name}")


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Precision in which sums of values of this type are formed: their own, and at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
