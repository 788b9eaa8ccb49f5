"""Fused kernels of reduce, conv and edge_dot on Triton's interpreter: no device needed, every load and mask is run."""

import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

CASES = """
import sys

import torch

from geomol.ops import kernels, rows, triton_pair
from geomol.ops.rows import row_sum_slow

SRC = torch.tensor([4, 1, 4, 1, 1, 0, 4, 2, 4, 1, 1, 4, 4, 1, 4, 0, 1, 4, 4, 4, 1])
DST = torch.tensor([0] * 2 + [1] + [3] * 18)  # rows 2 and 4 are empty, row 3 is longer than a tile
N, E = 5, len(SRC)

def pointers(index):
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(index, minlength=N).cumsum(0)])

PERM = torch.argsort(SRC, stable=True)
SORTED, PERMUTED = (DST, pointers(DST), None), (SRC, pointers(SRC), PERM)
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-2}

def check(found, expected, dtype):
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])

def values(dtype, *shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)

def case(dtype, shape, shared):
    x, y = values(dtype, N, *shape), values(dtype, N, *shape, seed=1)
    w = values(dtype, E, *shared, seed=2).expand(-1, *shape)
    for (a, *_), (b, ptr, perm) in ((PERMUTED, SORTED), (SORTED, PERMUTED)):
        check(triton_pair.conv(x, w, a, ptr, perm), row_sum_slow(x.double()[a] * w.double(), b, ptr, perm), dtype)
        check(triton_pair.reduce(w, ptr, perm), row_sum_slow(w.double(), b, ptr, perm), dtype)
    check(triton_pair.edge_dot(x, y, SRC, DST), x.double()[SRC] * y.double()[DST], dtype)

for dtype in TOLERANCE:
    case(dtype, (3,), (3,))
case(torch.float64, (), ())
case(torch.float32, (2, 5), (1, 5))
case(torch.float32, (2, 5), (2, 1))
case(torch.float32, (2, 3, 2), (2, 1, 2))
case(torch.float32, (300,), (300,))  # more than a program holds

# columns of a larger array: strides are read, not assumed
wide = values(torch.float32, E, 4, 6)
check(
    triton_pair.reduce(wide[:, :, 1:4], *SORTED[1:]), row_sum_slow(wide[:, :, 1:4].double(), *SORTED), torch.float32
)
check(
    triton_pair.reduce(wide.mT, *PERMUTED[1:]), row_sum_slow(wide.mT.double(), *PERMUTED), torch.float32
)

# sums of many values in bfloat16 are formed in float32: 1 + 200 × 2⁻⁹ would stay 1 otherwise
small = torch.full((201, 1), 2.0**-9, dtype=torch.bfloat16)
small[0] = 1
total = triton_pair.reduce(small, torch.tensor([0, 201]), None)
assert abs(total.item() - (1 + 200 * 2.0**-9)) < 0.01, total

# rows so long that a program holds more edges at once, the last tile not full
long = values(torch.float64, 2500, 3)
bounds = torch.tensor([0, 1300, 2500])
check(
    triton_pair.reduce(long, bounds, None), torch.stack([long[:1300].sum(0), long[1300:].sum(0)]), torch.float64
)

# lists of edges with steps between their numbers
pairs = torch.stack([SRC, DST], dim=1)
x, w = values(torch.float64, N, 3), values(torch.float64, E, 3)
check(triton_pair.edge_dot(x, x, pairs[:, 0], pairs[:, 1]), x[SRC] * x[DST], torch.float64)
check(triton_pair.conv(x, w, pairs[:, 0], *SORTED[1:]), row_sum_slow(x[SRC] * w, *SORTED), torch.float64)

# no edges, no rows, no values
none = torch.zeros(0, 3)
assert (triton_pair.reduce(none, torch.zeros(4, dtype=torch.int64), None) == torch.zeros(3, 3)).all()
assert triton_pair.edge_dot(none, none, SRC[:0], DST[:0]).shape == (0, 3)
assert triton_pair.reduce(torch.zeros(E, 0), SORTED[1], None).shape == (N, 0)

# through the registered operators, two derivatives
for module in (kernels, rows):
    module.use_triton = lambda values: True

def operator(x, w):
    out = torch.ops.geomol.conv(x, w, *PERMUTED, *SORTED)
    return out + torch.ops.geomol.reduce(torch.ops.geomol.edge_dot(x, out.sin(), *PERMUTED, *SORTED), *SORTED)

def plain(x, w):
    out = torch.zeros(N, 2, dtype=x.dtype).index_add(0, DST, x[SRC] * w)
    return out + torch.zeros(N, 2, dtype=x.dtype).index_add(0, DST, x[SRC] * out.sin()[DST])

def derivatives(function):
    args = [values(torch.float64, n, 2, seed=n).requires_grad_() for n in (N, E)]
    out = function(*args)
    first = torch.autograd.grad(out.square().sum(), args, create_graph=True)
    return [out, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), args)]

for found, expected in zip(derivatives(operator), derivatives(plain), strict=True):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
print("all agree")
"""


def interpreted(script):
    """Runs a script with the interpreter on, which has to be decided before Triton is imported."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment, check=False
    )


def test_kernels_agree_with_loops_in_every_type_shape_and_order():
    done = interpreted(CASES)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all agree\n"


def test_the_comparison_sees_a_row_that_is_left_out():
    """Control: the same cases with the row pointers moved by one edge."""
    done = interpreted(CASES.replace("cumsum(0)])", "cumsum(0)]).sub(1).clamp(min=0)"))
    assert done.returncode != 0
    assert "Mismatched elements" in done.stderr


def test_a_tile_is_of_a_size_that_triton_takes():
    sizes = "from geomol.ops.triton_pair import _tile\nprint([_tile(n) for n in (0, 1, 3, 64, 100, 256, 257, 5000)])"
    done = interpreted(sizes)
    assert done.returncode == 0, done.stderr
    for edges, width in eval_pairs(done.stdout):
        assert math.log2(edges).is_integer()
        assert math.log2(width).is_integer()
        assert edges * width <= 1024


def eval_pairs(text):
    numbers = [int(n) for n in text.replace("(", "").replace(")", "").strip("[]\n").split(",")]
    assert len(numbers) == 16
    return zip(numbers[::2], numbers[1::2], strict=True)
