"""The least time that the arithmetic of a computation takes on this machine, to stand beside the time it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# importing the package registers the operators
from geomol import ops  # noqa: F401
from geomol.ops.fused_cpu import NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT, NEED_X

PRODUCT_SIZE = 1024  # of the square matrices whose product shows what a machine can do
CUDA_PRODUCT_SIZE = 8192  # a smaller one is over before a GPU is busy
STREAM_BYTES = 1 << 28  # far beyond any cache of a CPU
ROUNDS = 5


@dataclass(frozen=True)
class Work:
    """What a computation does, counted operator by operator.

    Attributes:
        flops: multiplications and additions in products of matrices; elementwise work is not among them. Of our own
            operators those that their sums ask for, without what they form again to save memory.
        bytes: read and written by all operators that move data, as if each went to memory: caches make it less, and
            fusing operators does.
    """

    flops: int
    bytes: int


@dataclass(frozen=True)
class Machine:
    """What this machine does at its best, measured.

    Attributes:
        flops_per_s: in a large product of matrices of this dtype, with the threads of the moment.
        bytes_per_s: read and written in a large copy.
    """

    flops_per_s: float
    bytes_per_s: float

    def floor_s(self, work: Work) -> float:
        """Time for the products alone, at the speed of a large one: no implementation of the same sums is faster."""
        return work.flops / self.flops_per_s

    def stream_s(self, work: Work) -> float:
        """Time for the bytes alone, were each operator to read and write memory: what fusing and caches can save."""
        return work.bytes / self.bytes_per_s


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that operators read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        aliases = [r.alias_info for r in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            for tensor in tree_leaves((args, kwargs, out)):
                if isinstance(tensor, Tensor):
                    self.bytes += tensor.numel() * tensor.element_size()
        return out


def count_work(function: Callable[[], object]) -> Work:
    """Runs a function once and counts; derivatives that it takes count too, but second ones of our own operators."""
    own = torch.ops.geomol
    formulas = {
        own.messages: _messages,
        own.messages_grads: _messages_grads,
        own.separable_conv: _separable,
        own.separable_grads: _separable_grads,
    }
    traffic, products = _Traffic(), FlopCounterMode(display=False, custom_mapping=formulas)
    with products, traffic:
        function()
    return Work(products.get_total_flops(), traffic.bytes)


def _messages(receiver: Any, sender: Any, feats: Any, *rest: Any, **out: Any) -> int:
    """2 E (K C + C² + C), the last for the gate."""
    (num_edges, num_feats), channels, gate = feats, receiver[1], rest[5]
    return int(2 * num_edges * channels * (num_feats + channels + (gate is not None)))


def _messages_grads(y: Any, *rest: Any, **out: Any) -> int:
    """As many for the derivatives by nodes and edges, and again by the weights."""
    return _messages(*rest) * (1 + bool(rest[-1]))


def _separable(x: Any, angular: Any, radial: Any, weight: Any, *pair: Any, **out: Any) -> int:
    """2 E L C (K + O)."""
    return _mixed(radial, weight) + _projected(angular, weight)


def _separable_grads(x: Any, y: Any, angular: Any, radial: Any, weight: Any, *rest: Any, **out: Any) -> int:
    need, total = rest[-1], 0
    if need & NEED_X:
        total += _projected(angular, weight)
    if need & NEED_ANGULAR:
        total += _projected(angular, weight)
    if need & (NEED_RADIAL | NEED_WEIGHT):
        total += _projected(angular, weight)
    return total + _mixed(radial, weight) * (bool(need & NEED_RADIAL) + bool(need & NEED_WEIGHT))


def _mixed(radial: Any, weight: Any) -> int:
    """Σ_k r_ek W_klc."""
    return int(2 * radial[0] * weight[0] * weight[1] * weight[2])


def _projected(angular: Any, weight: Any) -> int:
    """Σ_l A_eol R_elc."""
    return int(2 * angular[0] * angular[1] * angular[2] * weight[2])


def measure_machine(dtype: torch.dtype, device: torch.device) -> Machine:
    """The best of a few rounds of a large product and a large copy."""
    size = CUDA_PRODUCT_SIZE if device.type == "cuda" else PRODUCT_SIZE
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    source = torch.zeros(STREAM_BYTES // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    product, copy = _best(lambda: torch.mm(a, b), device), _best(lambda: target.copy_(source), device)
    return Machine(2 * size**3 / product, 2 * STREAM_BYTES / copy)


def _best(function: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(ROUNDS + 1):  # the first warms up
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
