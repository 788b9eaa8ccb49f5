"""The mixing of orientations on a CPU: in C where the machine has a compiler, else by blocks of nodes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from geomol.native.library import function

BLOCK = 64  # nodes that are turned so that channels come first, in the cache
_REAL = {torch.float32: "float", torch.float64: "double"}


def mix(x: Tensor, kernel: Tensor) -> Tensor:
    """out[n, p, c] = Σ_o x[n, o, c] k[p, o, c]."""
    out = x.new_empty(x.shape[0], kernel.shape[0], x.shape[2])
    if (run := _in_c("mix", x, kernel)) is not None:
        held = x.contiguous(), kernel.contiguous()
        run(*(t.data_ptr() for t in (*held, out)), _Sizes(x.shape[0], x.shape[1], *kernel.shape[::2]))
        return out
    by_channel = kernel.permute(2, 1, 0).contiguous()
    for first in range(0, len(x), BLOCK):
        block = x[first : first + BLOCK].permute(2, 0, 1).contiguous()
        out[first : first + BLOCK] = torch.bmm(block, by_channel).permute(1, 2, 0)
    return out


def products(y: Tensor, x: Tensor) -> Tensor:
    """out[p, o, c] = Σ_n y[n, p, c] x[n, o, c]."""
    if (run := _in_c("multiply", x, y)) is not None:
        held, out = (y.contiguous(), x.contiguous()), x.new_zeros(y.shape[1], *x.shape[1:])
        run(*(t.data_ptr() for t in (*held, out)), _Sizes(x.shape[0], x.shape[1], *y.shape[1:]))
        return out
    by_channel = x.new_zeros(x.shape[2], y.shape[1], x.shape[1])
    for first in range(0, len(x), BLOCK):
        block = slice(first, first + BLOCK)
        by_channel.baddbmm_(y[block].permute(2, 1, 0).contiguous(), x[block].permute(2, 0, 1).contiguous())
    return by_channel.permute(1, 2, 0).contiguous()


class _Sizes(ctypes.Structure):
    """Those of mixing.c."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("nodes", "from", "to", "channels"))


def _in_c(name: str, x: Tensor, other: Tensor) -> Callable[..., None] | None:
    """None where there is no library, or for numbers that it does not know."""
    if x.dtype not in _REAL or x.dtype != other.dtype:
        return None
    arguments = (*(ctypes.c_void_p,) * 3, ctypes.POINTER(_Sizes))
    return function("mixing", f"geomol_{name}_{_REAL[x.dtype]}", *arguments)
