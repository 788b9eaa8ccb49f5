"""What all kernels share: the language, how they are compiled, and how many warps run a tile.

Import only where a kernel runs (`geomol.ops.backend.fused`): this needs Triton.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

triton: Any = import_module("triton")
tl: Any = import_module("triton.language")
if TYPE_CHECKING:
    constexpr = Any
else:
    constexpr = tl.constexpr  # an argument that is known when the kernel is compiled

# neither the number of edges or points nor where a list of them begins may ask for another compilation in mid-run
_CHANGING = {
    "do_not_specialize": ("num_edges", "num_atoms", "num_points", "num_rows", "rows_each", "first"),
    "do_not_specialize_on_alignment": ("index", "ptr", "perm", "a", "b"),
}


def jit(function: Callable[..., None]) -> Any:
    """A kernel of a function, of the bare one: a checker of shapes that wraps it would hide the names it reads."""
    bare = inspect.unwrap(function)
    names = inspect.signature(bare).parameters
    kept = {key: [name for name in given if name in names] for key, given in _CHANGING.items()}
    return triton.jit(bare, **kept)


def warps_of(num_values: int) -> int:
    """Warps for a tile: few registers a thread, so that many tiles run beside each other and hide their loads."""
    return 1 if num_values < 512 else 4 if num_values <= 2048 else 8


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Tensor | float,
    warps: int,
    fuse: bool = True,
    **constants: int | str,
) -> None:
    """Runs a kernel on the device of its first tensor, which need not be the current one.

    Args:
        kernel, grid, args, constants: as Triton takes them.
        warps: for each program.
        fuse: whether a product and a sum may become one operation, which rounds once instead of twice.
    """
    first = args[0]
    assert isinstance(first, Tensor)
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        # said in either case: the default is to change
        kernel[grid](*args, **constants, num_warps=warps, enable_fp_fusion=fuse)
