"""On a CUDA device the fused kernels give what PyTorch gives on a CPU, the same bits every time, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from geomol.ops import gated_messages
from geomol.ops.fused import separable_conv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
]
NODES, DEGREE, ORI, CHANNELS, DEGREES, RADIAL = 300, 30, 12, 64, 4, 8
Function = Callable[..., Tensor]


class Pairs:
    """A random graph; half of the nodes receive nothing, some send nothing."""

    def __init__(self, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.src = torch.randint(NODES, (NODES * DEGREE,), generator=generator).to(device)
        self.dst = (torch.randint(NODES // 2, (NODES * DEGREE,), generator=generator) * 2).sort().values.to(device)
        self.send_perm = torch.argsort(self.src, stable=True)
        self.edge_ptr, self.send_ptr = (
            torch.cat([i.new_zeros(1), torch.bincount(i, minlength=NODES).cumsum(0)]) for i in (self.dst, self.src)
        )

    @property
    def receive(self) -> tuple[Tensor, Tensor, None]:
        return self.dst, self.edge_ptr, None

    @property
    def send(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.src, self.send_ptr, self.send_perm


def pair_ops(x: Tensor, w: Tensor, pairs: Pairs) -> Tensor:
    ops = torch.ops.geomol
    out = ops.conv(x, w, *pairs.send, *pairs.receive)
    back = ops.reduce(ops.edge_dot(x, out.sin(), *pairs.send, *pairs.receive), *pairs.send)
    total: Tensor = out + back
    return total


def edge_block(*args: Any) -> Tensor:
    """Scaled so that nothing gets large: sines of large sums magnify their rounding."""
    receiver, sender, feats, window, v, e, w, b, gate, shift, pairs = args
    first, second, last = (v / RADIAL, e), (w / CHANNELS, b), (gate / CHANNELS, shift)
    return gated_messages(receiver, sender, feats, window / DEGREE, first, second, last, pairs)


CASES: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "pair": (pair_ops, [(NODES, ORI, CHANNELS), (NODES * DEGREE, ORI, CHANNELS)]),
    "pair, short": (pair_ops, [(NODES, 3), (NODES * DEGREE, 3)]),
    "separable": (
        separable_conv,
        [
            (NODES, ORI, CHANNELS),
            (NODES * DEGREE, ORI, DEGREES),
            (NODES * DEGREE, RADIAL),
            (RADIAL, DEGREES, CHANNELS),
        ],
    ),
    "edge block": (
        edge_block,
        [
            *2 * [(NODES, CHANNELS)],
            (NODES * DEGREE, RADIAL),
            (NODES * DEGREE, 1),
            (CHANNELS, RADIAL),
            (CHANNELS,),
            (CHANNELS, CHANNELS),
            (CHANNELS,),
            (1, CHANNELS),
            (1,),
        ],
    ),
}
INPUTS = {"edge block": 4}  # of these forces take derivatives; of weights alone, which are the others, training does


def derivatives(name: str, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Value and two derivatives."""
    function, shapes = CASES[name]
    generator = torch.Generator().manual_seed(1)
    args = [torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype) for s in shapes]
    args = [a.requires_grad_() for a in args]
    out = function(*args, Pairs(device))
    first = torch.autograd.grad(out.sin().sum(), args[: INPUTS.get(name)], create_graph=True)
    return [out, *first, *torch.autograd.grad(sum(g.sin().sum() for g in first), args)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_two_derivatives_agree_with_the_cpu(name: str, dtype: torch.dtype, tolerance: float) -> None:
    for found, expected in zip(derivatives(name, "cuda", dtype), derivatives(name, "cpu", torch.float64), strict=True):
        assert found.dtype == dtype
        assert (found.cpu().double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_a_hundred_runs_give_the_same_bits(name: str) -> None:
    first = derivatives(name, "cuda", torch.float32)
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(first, derivatives(name, "cuda", torch.float32), strict=True))


def test_force_training_needs_a_fifth_of_the_memory_of_full_arrays() -> None:
    def plain(x: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, pairs: Pairs) -> Tensor:
        kernel = torch.einsum("eol,ek,klc->eoc", angular, radial, weight)
        return torch.zeros_like(x).index_add(0, pairs.dst, x[pairs.src] * kernel)

    peaks = []
    for function in (plain, separable_conv):
        CASES["measured"] = (function, CASES["separable"][1])
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        derivatives("measured", "cuda", torch.float32)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    del CASES["measured"]
    assert peaks[1] <= peaks[0] / 5
