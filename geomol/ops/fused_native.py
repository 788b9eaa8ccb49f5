"""The separable convolution and its derivatives on a CPU in C, see `geomol/native/separable.c`."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from geomol.native.library import function
from geomol.native.threads import cuts, share
from geomol.ops.fused_cpu import NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT, NEED_X, NEED_Y

MOST_DEGREES = 8  # of separable.c
WEIGHT_BYTES = 256 * 1024  # with larger ones products by a library are as fast
_EDGES = 8  # of separable.c
_REAL = {torch.float32: "float", torch.float64: "double"}
_INPUTS = ("a", "b", "x", "y", "angular", "radial", "weight", "t_x", "t_angular", "t_radial", "t_weight")
_OUTPUTS = ("by_x", "by_y", "by_angular", "by_radial", "by_weight")
_FLAGS = dict(zip(_OUTPUTS, (NEED_X, NEED_Y, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT), strict=True))
_SIZES = ("first", "last", "num_nodes", "num_rows", "num_ori", "degrees", "basis", "channels")


class _Request(ctypes.Structure):
    """What separable.c is asked; see there."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in (*_INPUTS, *_OUTPUTS, "scratch")),
        ("stranger", ctypes.c_int64),
    )


def takes(weight: Tensor, *factors: Tensor) -> bool:
    """Whether there is a library, and one for these numbers and sizes."""
    dtype = weight.dtype
    if dtype not in _REAL or any(t.dtype != dtype or t.device.type != "cpu" for t in (weight, *factors)):
        return False
    if not 0 < weight.shape[1] <= MOST_DEGREES or weight.numel() * weight.itemsize > WEIGHT_BYTES:
        return False
    return function("separable", f"geomol_separable_conv_{_REAL[dtype]}", ctypes.POINTER(_Request)) is not None


def conv(x: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, a: Tensor, b: Tensor, num_rows: int) -> Tensor:
    """out_i = Σ_{e into i} x[a_e] · κ_e."""
    out = x.new_zeros(num_rows, *x.shape[1:])
    _run("conv", {"a": a, "b": b, "x": x, "angular": angular, "radial": radial, "weight": weight}, {"by_y": out})
    return out


def grads(
    x: Tensor, y: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, a: Tensor, b: Tensor, need: int
) -> tuple[Tensor, ...]:
    """Derivatives of Σ_e Σ x[a_e] · y[b_e] · κ_e by x, A, r and W, as far as `need` asks; empty where it does not."""
    given = {"a": a, "b": b, "x": x, "y": y, "angular": angular, "radial": radial, "weight": weight}
    by = _places(given, need & ~NEED_Y)
    _run("grads", given, by)
    return tuple(by.get(name, x.new_empty(0)) for name in _OUTPUTS if name != "by_y")


def grads_twice(
    tx: Tensor | None,
    t_angular: Tensor | None,
    t_radial: Tensor | None,
    t_weight: Tensor | None,
    x: Tensor,
    y: Tensor,
    angular: Tensor,
    radial: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    need: int,
) -> tuple[Tensor, ...]:
    """As `geomol.ops.fused_cpu_twice.grads_twice`."""
    given = {"a": a, "b": b, "x": x, "y": y, "angular": angular, "radial": radial, "weight": weight}
    by = _places(given, need)
    tangents = {"t_x": tx, "t_angular": t_angular, "t_radial": t_radial, "t_weight": t_weight}
    _run("twice", given | {name: value for name, value in tangents.items() if value is not None}, by)
    return tuple(by.get(name, x.new_empty(0)) for name in _OUTPUTS)


def _places(given: dict[str, Tensor], need: int) -> dict[str, Tensor]:
    """For the derivatives that are wanted; zero where many edges add to them."""
    out = {}
    for name, flag in _FLAGS.items():
        if need & flag:
            of = given[name.removeprefix("by_")]
            edgewise = name in ("by_angular", "by_radial")
            out[name] = of.new_empty(of.shape) if edgewise else of.new_zeros(of.shape)
    return out


def _run(name: str, given: dict[str, Tensor], places: dict[str, Tensor]) -> None:
    """Calls the C function, in as many threads as PyTorch has and are worth it.

    Edges of one receiver stay in one thread; sums at senders and of weights, which threads would share, are apart.
    """
    x, weight = given["x"], given["weight"]
    run = function("separable", f"geomol_separable_{name}_{_REAL[x.dtype]}", ctypes.POINTER(_Request))
    assert run is not None
    (num_nodes, num_ori, channels), (basis, degrees, _) = x.shape, weight.shape
    num_rows = len(places["by_y"] if name == "conv" else given["y"])
    sizes = num_nodes, num_rows, num_ori, degrees, basis, channels
    scratch_size = 4 * _EDGES * degrees * channels + 2 * num_ori * max(channels, degrees)
    held = {key: (value.long() if key in "ab" else value).contiguous() for key, value in given.items()}
    scratch = []

    def request(first: int, last: int, to: Mapping[str, Tensor]) -> _Request:
        out = _Request(first, last, *sizes, stranger=-1)
        scratch.append(x.new_zeros(scratch_size))
        for key, value in (held | dict(to) | {"scratch": scratch[-1]}).items():
            setattr(out, key, value.data_ptr())
        return out

    apart = places.keys() & {"by_x", "by_weight"}
    shared = sum(places[key].numel() for key in apart)
    parts = cuts(held["b"], work_per_edge=num_ori * degrees * channels, apart=shared)
    share(run, request, parts, places, apart)
