"""The separable convolution: equal to the sum over full arrays, differentiable three times, registered, repeatable."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from geomol.native import threads
from geomol.ops.fused import separable_conv

N = 5


class Pairs:
    """A node without edges, one that only sends, one that only receives, an edge given twice."""

    def __init__(self, src=(4, 1, 4, 1, 1, 0, 4), dst=(0, 0, 1, 3, 3, 3, 3), num_nodes=N):
        self.src, self.dst = (torch.tensor(i, dtype=torch.int64) for i in (src, dst))
        self.send_perm = torch.argsort(self.src, stable=True)
        self.edge_ptr, self.send_ptr = (
            torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(i, minlength=num_nodes).cumsum(0)])
            for i in (self.dst, self.src)
        )


def inputs(num_edges=7, dtype=torch.float64, sizes=(N, 3, 4, 2, 3), scale=1.0):
    n, o, c, l, k = sizes  # noqa: E741
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, o, c), (num_edges, o, l), (num_edges, k), (k, l, c))
    return [(scale * torch.randn(shape, dtype=dtype, generator=generator)).requires_grad_() for shape in shapes]


def plain(x, angular, radial, weight, pairs):
    """Every array in full."""
    kernel = torch.einsum("eol,ek,klc->eoc", angular, radial, weight)
    out = x.new_zeros(len(pairs.edge_ptr) - 1, *x.shape[1:])
    return out.index_add(0, pairs.dst, x[pairs.src] * kernel)


def derivatives(function, args, pairs):
    """Value, first derivatives, second derivatives of a scalar of the first (as training on forces takes them)."""
    out = function(*args, pairs)
    first = torch.autograd.grad(out.sin().sum(), args, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), args, create_graph=True)
    third = torch.autograd.grad(sum(g.sin().sum() for g in second), args)
    return [out, *first, *second, *third]


SIZES = [(N, 3, 4, 2, 3), (N, 1, 1, 1, 1), (N, 2, 21, 3, 4), (N, 2, 16, 5, 2), (N, 3, 9, 9, 2)]  # N, O, C, L, K


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_three_derivatives_agree_with_full_arrays(sizes):
    pairs, args = Pairs(), inputs(sizes=sizes, scale=0.6)
    for found, expected in zip(derivatives(separable_conv, args, pairs), derivatives(plain, args, pairs), strict=True):
        # relative to the largest: the sines of large numbers in the third derivatives magnify the rounding of all
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * float(expected.detach().abs().max()))
        assert expected.abs().max() > 0.01


def test_a_kernel_of_another_weight_is_told_apart():
    """Control of the comparison above."""
    pairs, args = Pairs(), inputs()
    other = plain(*args[:3], args[3].roll(1, 0), pairs)
    assert not torch.allclose(separable_conv(*args, pairs), other)


@pytest.mark.usefixtures("way")
def test_derivatives_agree_with_finite_differences_twice():
    pairs = Pairs()
    assert gradcheck(lambda *args: separable_conv(*args, pairs), inputs())
    assert gradgradcheck(lambda *args: separable_conv(*args, pairs), inputs())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("free", [(0,), (1,), (2,), (3,), (1, 2), (0, 3), (1, 2, 3)])
def test_any_choice_of_inputs_can_be_differentiated(free):
    pairs = Pairs()

    def part(function):
        args = [a.detach().requires_grad_(k in free) for k, a in enumerate(inputs())]
        chosen = [args[k] for k in free]
        first = torch.autograd.grad(function(*args, pairs).sin().sum(), chosen, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), chosen)]

    for found, expected in zip(part(separable_conv), part(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("way")
def test_no_edges_give_zero():
    pairs, args = Pairs(src=(), dst=()), inputs(num_edges=0)
    out = separable_conv(*args, pairs)
    assert out.shape == (N, 3, 4)
    assert (out == 0).all()
    first = torch.autograd.grad(out.sum(), args, create_graph=True)
    assert [g.shape for g in first] == [a.shape for a in args]
    torch.autograd.grad(sum(g.sum() for g in first), args, allow_unused=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_operators_are_registered_as_pytorch_asks():
    """Schema, fake kernels, autograd registration, and agreement under ahead-of-time tracing."""
    pairs, (x, *factors) = Pairs(), inputs()
    pair = (pairs.src, pairs.send_ptr, pairs.send_perm, pairs.dst, pairs.edge_ptr, None)
    y = torch.randn_like(x).requires_grad_()
    tangents = [torch.randn_like(t).requires_grad_() for t in (x, *factors)]
    ops = torch.ops.geomol
    for operator, args in (
        (ops.separable_conv, (x, *factors, *pair)),
        (ops.separable_grads, (x, y, *factors, *pair, 29)),
        (ops.separable_grads, (x.detach(), y, *factors, *pair, 12)),
        (ops.separable_grads_twice, (*tangents, x, y, *factors, *pair, 31)),
        (ops.separable_grads_twice, (None, *tangents[1:3], None, x, y, *factors, *pair, 26)),
    ):
        assert set(torch.library.opcheck(operator.default, args).values()) == {"SUCCESS"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_repeated_runs_are_equal_bit_for_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    dst = torch.randint(50, (3000,), generator=generator).sort().values.tolist()
    pairs = Pairs(torch.randint(50, (3000,), generator=generator).tolist(), dst, 50)
    args = inputs(3000, dtype, (50, 4, 16, 2, 3))
    first = derivatives(separable_conv, args, pairs)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, derivatives(separable_conv, args, pairs), strict=True))


@pytest.mark.usefixtures("way")
def test_many_edges_agree_with_full_arrays():
    """More than are taken at once, and a width that vectors do not divide."""
    generator = torch.Generator().manual_seed(0)
    dst = torch.randint(50, (1003,), generator=generator).sort().values.tolist()
    pairs = Pairs(torch.randint(50, (1003,), generator=generator).tolist(), dst, 50)
    args = inputs(1003, sizes=(50, 3, 27, 4, 5), scale=0.3)
    for found, expected in zip(derivatives(separable_conv, args, pairs), derivatives(plain, args, pairs), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * float(expected.detach().abs().max()))


@pytest.mark.usefixtures("way")
def test_edges_between_nodes_that_are_not_there_are_refused():
    """And no memory of others is read or written."""
    for src, dst in (((4, 5), (0, 1)), ((4, -1), (0, 1)), ((4, 1), (0, 7))):
        pairs = Pairs()
        pairs.src, pairs.dst = torch.tensor(src), torch.tensor(dst)
        with pytest.raises((IndexError, RuntimeError)):
            separable_conv(*inputs(2), pairs)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("which", ["angular", "radial", "K", "L", "O", "C", "senders", "float senders"])
def test_arrays_that_do_not_fit_are_refused(which):
    """And nothing is read beyond them."""
    pairs, (x, angular, radial, weight) = Pairs(), [a.detach() for a in inputs()]
    if which == "angular":
        angular = angular[:3]
    elif which == "radial":
        radial = radial[:3]
    elif which == "K":
        radial = radial[:, :2]
    elif which == "L":
        angular = torch.cat([angular, angular], dim=2)
    elif which == "O":
        angular = angular[:, :2]
    elif which == "C":
        weight = weight[:, :, :2]
    elif which == "senders":
        pairs.src = pairs.src[:4]
    else:
        pairs.src = pairs.src.double()
    with pytest.raises((ValueError, RuntimeError)):
        torch.ops.geomol.separable_conv(
            x, angular, radial, weight, pairs.src, pairs.send_ptr, pairs.send_perm, pairs.dst, pairs.edge_ptr, None
        )


def test_strided_and_short_integer_inputs_are_read_as_they_are_meant():
    pairs, args = Pairs(), inputs()
    strided = [a.detach().transpose(0, 1).contiguous().transpose(0, 1) for a in args]
    expected = plain(*args, pairs)
    torch.testing.assert_close(separable_conv(*strided, pairs), expected, rtol=1e-12, atol=1e-12)
    pairs.src, pairs.dst = pairs.src.int(), pairs.dst.int()
    torch.testing.assert_close(separable_conv(*args, pairs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_threads_work_in_a_child_of_a_process_that_has_used_them(monkeypatch):
    monkeypatch.setattr(threads, "SMALLEST_WORK", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    pairs, args = Pairs(), [a.detach() for a in inputs()]
    expected = separable_conv(*args, pairs)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(separable_conv(*args, pairs), expected) else 1)
    deadline = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done == (child, 0)


class _Asked(ctypes.Structure):
    _fields_ = (("stranger", ctypes.c_int64),)


def _share(run, monkeypatch, submit):
    monkeypatch.setattr(threads, "_pool", lambda: SimpleNamespace(submit=submit))
    parts, place = [(0, 1), (1, 2), (2, 3)], torch.zeros(1)
    threads.share(run, lambda first, last, to: _Asked(stranger=-1), parts, {"out": place})


def test_what_no_other_thread_begins_is_done_in_this_one(monkeypatch):
    """Also where a call that was refused has been taken all the same, and is made later."""
    taken, done = [], []

    def refuse(call):
        taken.append(call)
        raise RuntimeError("can't start new thread")

    _share(lambda asked: done.append(1), monkeypatch, refuse)
    assert len(done) == 3
    for call in taken:
        call()
    assert len(done) == 3


def test_an_interruption_waits_for_the_threads_that_write(monkeypatch):
    """They write to memory that is given back afterwards; interrupted in the own work and then in the wait itself."""
    ended, interruptions = [], []
    wait = threads._Once.wait

    def slow(asked):
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.05)  # until the others have begun
            raise KeyboardInterrupt
        time.sleep(0.3)
        ended.append(1)

    def interrupted(call):
        if not interruptions:
            interruptions.append(1)
            raise KeyboardInterrupt
        wait(call)

    monkeypatch.setattr(threads._Once, "wait", interrupted)
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(KeyboardInterrupt):
            _share(slow, monkeypatch, pool.submit)
        assert len(ended) == 2
    assert interruptions


def test_parts_cover_all_edges_and_share_no_receiver(monkeypatch):
    monkeypatch.setattr(threads, "SMALLEST_WORK", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for receivers in ([0, 0, 1, 3, 3, 3, 3], [2] * 9, [0], [], list(range(40))):
        b = torch.tensor(receivers, dtype=torch.int64)
        parts = threads.cuts(b, work_per_edge=10)
        assert [e for first, last in parts for e in range(first, last)] == list(range(len(b)))
        owners = [set(receivers[first:last]) for first, last in parts]
        assert sum(map(len, owners)) == len(set(receivers))
        assert len(parts) <= 4
    assert len(parts) == 4
    monkeypatch.setattr(threads, "SMALLEST_WORK", 200)
    assert len(threads.cuts(b, work_per_edge=10)) == 2
    assert len(threads.cuts(b, work_per_edge=40, apart=40 * 40 // (4 * threads.COST_APART))) == 2  # isqrt(4)
    assert threads.cuts(b.flip(0), work_per_edge=100) == [(0, 40)]  # not sorted
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert threads.cuts(b, work_per_edge=10**6) == [(0, 40)]


def test_single_precision_is_within_its_rounding():
    pairs, args = Pairs(), inputs()
    exact = derivatives(separable_conv, args, pairs)[:5]
    rounded = derivatives(separable_conv, [a.detach().float().requires_grad_() for a in args], pairs)[:5]
    for found, expected in zip(rounded, exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


PEAKS = """
import sys

import torch

sys.path.insert(0, sys.argv[1])
from test_fused_separable import Pairs, inputs, plain, separable_conv

def peak(function, args, pairs):
    # the kernel keeps the high-water mark of the memory of a process; 5 sets it back
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    out = function(*args, pairs)
    first = torch.autograd.grad(out.sin().sum(), args, create_graph=True)
    sum(g.square().sum() for g in first).backward(inputs=args)
    return status("VmHWM") - before

def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

nodes, degree = 150, 40
dst = torch.arange(nodes).repeat_interleave(degree).tolist()
src = torch.randint(nodes, (nodes * degree,), generator=torch.Generator().manual_seed(0)).tolist()
pairs, args = Pairs(src, dst, nodes), inputs(nodes * degree, torch.float32, (nodes, 16, 128, 4, 8))
print(peak(separable_conv, args, pairs), peak(plain, args, pairs))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
def test_training_on_forces_needs_a_fifth_of_the_memory_of_full_arrays():
    """Peak of the process above what it held before, value and two derivatives, width and grid of the published PONITA.

    Arrays of E × O × C are 49 MB here.
    """
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, str(here.parent)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(here.parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    fused, full = (int(kilobytes) for kilobytes in done.stdout.split())
    assert full > 300_000, "the control: full arrays are large"
    assert fused < full / 5, done.stdout
