"""Fused kernels of EGNN's edge block on Triton's interpreter: value, forces' derivatives, and training on forces."""

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
from torch.nn.functional import silu

from geomol.ops import fused_messages, triton_messages

class Pairs:  # node 2 receives nothing, node 0 sends nothing, node 3 receives more than a tile
    dst = torch.tensor([0, 0, 1] + 19 * [3] + [4])
    src = torch.tensor([4, 1, 4] + 6 * [1, 2, 3] + [3, 4])
    edge_ptr, send_ptr = (
        torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(i, minlength=5).cumsum(0)]) for i in (dst, src)
    )
    send_perm = torch.argsort(src, stable=True)

N, E = 5, len(Pairs.src)

def inputs(dtype, channels, num_feats, gated):
    generator = torch.Generator().manual_seed(0)
    c, k = channels, num_feats
    shapes = [(N, c), (N, c), (E, k), (E, 1), (c, k), (c,), (c, c), (c,)] + ([(1, c), (1,)] if gated else [])
    draw = [torch.randn(s, generator=generator, dtype=torch.float64) / s[-1] ** 0.5 for s in shapes]
    return [x.to(dtype).requires_grad_() for x in draw]

def fused(receiver, sender, feats, window, v, e, w, b, *gate):
    return fused_messages.gated_messages(receiver, sender, feats, window, (v, e), (w, b), tuple(gate) or None, Pairs)

def plain(receiver, sender, feats, window, v, e, w, b, *gate):
    message = silu(silu(receiver[Pairs.dst] + sender[Pairs.src] + feats @ v.T + e) @ w.T + b)
    if gate:
        message = message * torch.sigmoid(message @ gate[0].T + gate[1])
    return torch.zeros_like(receiver).index_add(0, Pairs.dst, message * window)

def derivatives(function, args, chosen):
    out = function(*args)
    first = torch.autograd.grad(out.sin().sum(), [args[k] for k in chosen], create_graph=True)
    return [out, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), args)]

everything, forces = range(8), range(4)
for dtype, tolerance, sizes, gated, chosen in (
    (torch.float64, 1e-10, (4, 3), True, forces),
    (torch.float64, 1e-10, (4, 3), False, forces),
    (torch.float64, 1e-10, (20, 17), True, forces),  # more than the fewest columns, and no power of two
    (torch.float64, 1e-10, (4, 3), True, everything),
    (torch.float32, 1e-5, (32, 8), True, forces),
):
    args = inputs(dtype, *sizes, gated)
    for programs in (256, 2):  # a row for each program, and several
        triton_messages.PROGRAMS = programs
        triton_messages.ROWS = 8
        expected = derivatives(plain, [a.detach().double().requires_grad_() for a in args], chosen)
        fused_messages.use_triton = lambda values: True
        for a, b in zip(derivatives(fused, args, chosen), expected, strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * b.abs().max().item())
            assert b.abs().max() > 1e-4

# a whole model: energy, forces and what training on forces needs
from ase.build import molecule

from geomol.graph import build_graph
from geomol.models import EGNN
from geomol.potential import Potential

torch.manual_seed(0)
atoms = molecule("CH3OH")
backbone = EGNN(elements=[1, 6, 8], channels=8, num_layers=2, cutoff=4.0)
model = Potential(backbone, elements=[1, 6, 8], e0=[-13.0, -1000.0, -2000.0]).double()
graph, results, asked = build_graph(atoms, 4.0), [], []
twice = triton_messages.grads_twice
triton_messages.grads_twice = lambda *args: asked.append(len(args)) or twice(*args)
for kernels in (False, True):
    fused_messages.use_triton = lambda values: kernels
    out = model(graph, forces=True, create_graph=True)
    weights = [w for w in model.parameters() if w.requires_grad]
    by = torch.autograd.grad(out.energy.sum() + out.forces.square().sum(), weights, allow_unused=True)
    results.append([out.energy, out.forces, *(g for g in by if g is not None)])
assert len(results[0]) > 20
assert len(asked) == 2  # once a layer
for a, b in zip(*results, strict=True):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
print("all agree")
"""


def interpreted(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with the interpreter on, which has to be decided before Triton is imported."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment, check=False
    )


def test_kernels_agree_with_full_arrays_in_value_and_two_derivatives() -> None:
    done = interpreted(CASES)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all agree\n"


def test_the_comparison_sees_a_tile_that_is_left_out() -> None:
    """Control: rows end after their first edge."""
    done = interpreted(CASES.replace("torch.argsort(src, stable=True)", "torch.argsort(src, stable=True).flip(0)"))
    assert done.returncode != 0
    assert "Mismatched elements" in done.stderr
