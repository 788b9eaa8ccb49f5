"""Fused kernels of the separable convolution on Triton's interpreter."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

CASES = """
import torch

from geomol.ops import fused, triton_separable
from geomol.ops.fused import separable_conv

class Pairs:  # node 2 has no edges, node 0 sends none, edge 4 → 3 is given twice
    src = torch.tensor([4, 1, 4, 1, 3, 4, 4])
    dst = torch.tensor([0, 0, 1, 3, 3, 3, 3])
    send_perm = torch.argsort(src, stable=True)
    send_ptr, edge_ptr = (
        torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(i, minlength=5).cumsum(0)]) for i in (src, dst)
    )

def inputs(dtype, o, c, l, k):
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, o, c), (7, o, l), (7, k), (k, l, c))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]

def plain(x, angular, radial, weight, pairs):
    kernel = torch.einsum("eol,ek,klc->eoc", angular, radial, weight)
    return torch.zeros_like(x).index_add(0, pairs.dst, x[pairs.src] * kernel)

def derivatives(function, args, chosen):
    out = function(*args, Pairs)
    first = torch.autograd.grad(out.sin().sum(), [args[k] for k in chosen], create_graph=True)
    return [out, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), args)]

for dtype, tolerance, sizes, chosen, block_bytes in (
    (torch.float64, 1e-10, (3, 5, 3, 2), (0, 1, 2, 3), 1 << 20),
    (torch.float64, 1e-10, (3, 5, 3, 2), (0, 1, 2, 3), 2 * 8 * 3 * 5),  # blocks of two edges, the last of one
    (torch.float64, 1e-10, (2, 70, 1, 1), (1, 2), 1 << 20),  # two blocks of channels
    (torch.float64, 1e-10, (2, 3, 2, 1), (3,), 1 << 20),
    (torch.float32, 1e-4, (5, 4, 2, 3), (0, 1, 2), 1 << 20),
):
    triton_separable.BLOCK_BYTES = block_bytes
    args = inputs(dtype, *sizes)
    expected = derivatives(plain, [a.detach().double().requires_grad_() for a in args], chosen)
    fused.use_triton = lambda values: True
    for a, b in zip(derivatives(separable_conv, args, chosen), expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * b.abs().max().item())

# tangents that are the factors themselves, not copies
def along_the_factors(function, args):
    chosen = args[:3]
    g = torch.autograd.grad(function(*args, Pairs).square().sum(), chosen, create_graph=True)
    return torch.autograd.grad(g, args, grad_outputs=chosen)

args = inputs(torch.float64, 3, 5, 3, 2)
expected = along_the_factors(plain, args)
for a, b in zip(along_the_factors(separable_conv, args), expected, strict=True):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * b.abs().max().item())
print("all agree")
"""

PEAKS = """
import sys

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, sys.argv[1])
from test_fused_separable import Pairs, inputs, plain, separable_conv

from geomol.ops import fused, triton_separable

def peak(function, *args):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as done:
        function(*args)
    given = [e for e in done.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = torch.tensor([e.nbytes() for e in sorted(given, key=lambda e: e.start_ns())]).cumsum(0)
    return int(held.max())

def training(function, args, pairs):
    first = torch.autograd.grad(function(*args, pairs).sin().sum(), args, create_graph=True)
    torch.autograd.grad(sum(g.sin().sum() for g in first), args)

def known():
    first = torch.empty(1 << 20)
    second = first.exp()
    del first
    return second.exp().exp()

nodes, degree = 300, 30
dst = torch.arange(nodes).repeat_interleave(degree).tolist()
src = torch.randint(nodes, (nodes * degree,), generator=torch.Generator().manual_seed(0)).tolist()
pairs, args = Pairs(src, dst, nodes), inputs(nodes * degree, torch.float32, (nodes, 12, 64, 4, 8))
triton_separable.launch = lambda *args, **constants: None  # kernels take nothing themselves, and minutes here
fused.use_triton = lambda values: True
print("bytes", peak(known), peak(training, separable_conv, args, pairs), peak(training, plain, args, pairs))
"""


def interpreted(script):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


def test_kernels_and_their_two_derivatives_agree_with_full_arrays():
    done = interpreted(CASES)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all agree\n"


def test_the_comparison_sees_a_wrong_sender():
    """Control: another edge list for the plain form."""
    done = interpreted(CASES.replace("x[pairs.src] * kernel", "x[pairs.src.flip(0)] * kernel"))
    assert done.returncode != 0
    assert "Mismatched elements" in done.stderr


def test_training_on_forces_needs_a_fifth_of_the_memory_of_full_arrays():
    """At the sizes of the same test on a GPU: arrays of E × O × C are 28 MB, of E × L × C 9 MB."""
    done = interpreted(PEAKS)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("bytes"))
    known, fused, full = (int(number) for number in line.split()[1:])
    assert known == 3 << 22, "the control of the count"
    assert fused > 18e6, "the control: arrays of kernels are counted"
    assert fused < full / 5, line
