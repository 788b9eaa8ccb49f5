"""The neighbour search in Triton, on its interpreter: the list of the search in PyTorch, element by element."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

CASES = """
import numpy as np
import torch

from geomol.errors import CapacityError
from geomol.graph import cells

generator = torch.Generator().manual_seed(0)

def random(*shape, scale=1.0):
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * scale

skewed = torch.tensor([[4.0, 0, 0], [1.5, 3.5, 0], [-1.0, 0.5, 5.0]], dtype=torch.float64)
one = torch.eye(3, dtype=torch.float64)[None]
lattice = torch.cartesian_prod(*3 * [torch.arange(3.0, dtype=torch.float64)])
no, yes = torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
far = random(12, 3, scale=4.0)
far[::3] += 100 * skewed[0]  # atoms far outside of their cell

STRUCTURES = {  # pos, sizes, cell, pbc, cutoff
    "open": (random(40, 3, scale=6.0), [40], 0 * one, no, 2.5),
    "alone": (torch.tensor([[1.0, 2, 3], [50, 2, 3]], dtype=torch.float64), [2], 0 * one, no, 2.0),
    "nothing near": (random(3, 3), [1, 1, 1], torch.zeros(3, 3, 3, dtype=torch.float64), no.repeat(3, 1), 2.0),
    "skewed": (far, [12], skewed[None], yes, 3.0),
    "smaller than the cutoff": (random(2, 3), [2], skewed[None] / 2, yes, 4.0),  # rows longer than a block
    "a slab": (random(9, 3, scale=4.0), [9], skewed[None], torch.tensor([[True, False, True]]), 3.0),
    "pairs at the cutoff": (lattice * 1.1, [27], 3.3 * one, yes, 1.1 * 2**0.5),
    "crowded": (random(60, 3, scale=1.2) + 0.5, [60], 0 * one, no, 2.0),
    "too close": (torch.tensor([[0.0, 0, 0], [0, 0, 0.3], [0, 2, 0], [0, 2.2, 0]]).double(), [4], 0 * one, no, 1.0),
    "empty structures": (random(7, 3, scale=2.0), [0, 3, 0, 4, 0], torch.stack([0 * skewed, *4 * [skewed]]),
                         torch.tensor([3 * [False], 3 * [True], 3 * [True], 3 * [False], [False, True, False]]), 2.5),
    "rounding above the cutoff": (torch.cat([random(12, 3), random(9, 3) + 4e6]), [21], 0 * one, no, 0.7),
    "a short cutoff": (random(9, 3, scale=3e-3) + 1.0, [9], skewed[None], yes, 1e-3),
    "many": (random(31, 3, scale=5.0), [10, 1, 20], torch.stack([skewed, 0 * skewed, 1.5 * skewed]),
             torch.tensor([[True, True, True], [False, False, False], [True, True, False]]), 2.7),
}

def search(name, **limits):
    pos, sizes, cell, pbc, cutoff = STRUCTURES[name]
    ptr = torch.tensor([0, *np.cumsum(sizes)])
    return cells.search_cells(pos, ptr, cell, pbc, cutoff, **limits)

for name in STRUCTURES:
    cells.use_triton = lambda values: False
    expected, close = search(name)
    cells.use_triton = lambda values: True
    found, close_too = search(name)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name
    assert sorted(close_too)[:1] == sorted(close)[:1], name
    print(name, len(found[0]), *sorted(close_too)[:1])
try:
    search("crowded", max_bytes=1000)
except CapacityError as error:
    print(error.what)
"""


def interpreted(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with the interpreter on, which has to be decided before Triton is imported."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root), "GEOMOL_NATIVE": "0"}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment, check=False
    )


def test_the_kernels_find_the_list_of_the_search_in_pytorch() -> None:
    done = interpreted(CASES)
    assert done.returncode == 0, done.stderr
    *found, refused = done.stdout.splitlines()
    assert len(found) == 13
    assert "pairs at the cutoff 486" in found  # of each of the 27, its 18 nearest
    assert sum("(0." in line for line in found) == 7  # the closest pair is told where it is too close
    assert refused.startswith("up to 3.54e+03 neighbour pairs of 60 atoms could need")


def test_the_comparison_sees_columns_that_are_left_out() -> None:
    """Control: the kernels look through 16 of the 25 columns around an atom."""
    done = interpreted("from geomol.ops import triton_cells\ntriton_cells.STRETCHES = 16\n" + CASES)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr
