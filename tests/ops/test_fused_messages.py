"""The edge block of EGNN as one operator: equal to the formula over full arrays, twice differentiable, registered."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import silu

from geomol.errors import GeomolError
from geomol.ops import blocks, fused_messages
from geomol.ops.constant import constant_weights
from geomol.ops.fused_messages import MOST_FUSED, gated_messages, has_kernels

N, C, K = 5, 4, 3


class Pairs:
    src = torch.tensor([4, 1, 4, 1, 1, 0, 4])
    dst = torch.tensor([0, 0, 1, 3, 3, 3, 3])


class NoPairs:
    src = dst = torch.zeros(0, dtype=torch.int64)


def inputs(gated, num_edges=7, dtype=torch.float64):
    shapes = [(N, C), (N, C), (num_edges, K), (num_edges, 1), (C, K), (C,), (C, C), (C,)]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(s, dtype=dtype, generator=generator).requires_grad_()
        for s in ([*shapes, (1, C), (1,)] if gated else shapes)
    ]


def fused(*args, pairs=Pairs):
    receiver, sender, feats, window, v, e, w, b, *gate = args
    return gated_messages(receiver, sender, feats, window, (v, e), (w, b), tuple(gate) or None, pairs)


def plain(*args, pairs=Pairs):
    receiver, sender, feats, window, v, e, w, b, *gate = args
    message = silu(silu(receiver[pairs.dst] + sender[pairs.src] + feats @ v.T + e) @ w.T + b)
    if gate:
        message = message * torch.sigmoid(message @ gate[0].T + gate[1])
    return torch.zeros_like(receiver).index_add(0, pairs.dst, message * window)


def derivatives(function, args):
    out = function(*args)
    first = torch.autograd.grad(out.sin().sum(), args, create_graph=True)
    return [out, *first, *torch.autograd.grad(sum(g.sin().sum() for g in first), args)]


@pytest.fixture(params=["one block", "blocks"])
def small_blocks(request, monkeypatch):
    if request.param == "blocks":
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 0)
        monkeypatch.setattr(blocks, "_FEWEST", 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("gated", [False, True])
def test_values_and_two_derivatives_agree_with_full_arrays(gated):
    for found, expected in zip(derivatives(fused, inputs(gated)), derivatives(plain, inputs(gated)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
        assert expected.abs().max() > 1e-3


def test_another_bias_is_told_apart():
    """Control of the comparison above."""
    args = inputs(True)
    assert not torch.allclose(fused(*args), plain(*args[:5], args[5] + 0.1, *args[6:]), rtol=1e-3)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("gated", [False, True])
def test_derivatives_agree_with_finite_differences_twice(gated):
    assert gradcheck(fused, inputs(gated))
    assert gradgradcheck(fused, inputs(gated))


@pytest.mark.parametrize("free", [(2,), (3,), (2, 3), (0, 1, 4)])
def test_any_choice_of_inputs_can_be_differentiated(free):
    def part(function):
        args = [a.detach().requires_grad_(k in free) for k, a in enumerate(inputs(True))]
        chosen = [args[k] for k in free]
        first = torch.autograd.grad(function(*args).sin().sum(), chosen, create_graph=True)
        return [*first, *torch.autograd.grad(first[0].square().sum(), chosen)]

    for found, expected in zip(part(fused), part(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_no_edges_give_zero():
    args = inputs(True, num_edges=0)
    out = fused(*args, pairs=NoPairs)
    assert (out == 0).all()
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), args))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("gated", [False, True])
def test_operators_are_registered_as_pytorch_asks(gated):
    args = inputs(gated) + ([] if gated else [None, None])
    pair, ops = (Pairs.src, Pairs.dst, None, None, None), torch.ops.geomol
    y = torch.randn(N, C, dtype=torch.float64).requires_grad_()
    for operator, given in ((ops.messages, (*args, *pair)), (ops.messages_grads, (y, *args, *pair, True))):
        assert set(torch.library.opcheck(operator.default, given).values()) == {"SUCCESS"}


def test_a_third_derivative_says_that_there_is_none():
    args = inputs(False)
    first = torch.autograd.grad(fused(*args).sin().sum(), args, create_graph=True)
    second = torch.autograd.grad(sum(g.sin().sum() for g in first), args[:1], create_graph=True)
    with pytest.raises(GeomolError, match="no third derivative"):
        torch.autograd.grad(second[0].sum(), args[:1])


def test_constant_weights_have_no_derivatives_and_cost_none(monkeypatch):
    args, asked = inputs(True), []
    grads = fused_messages.passes.grads
    monkeypatch.setattr(fused_messages.passes, "grads", lambda *given: asked.append(given[-1]) or grads(*given))
    expected = torch.autograd.grad(fused(*args).sum(), args[:4])
    with constant_weights():
        out = fused(*args)
    for found, wanted in zip(torch.autograd.grad(out.sum(), args[:4], retain_graph=True), expected, strict=True):
        assert torch.equal(found, wanted)
    assert torch.autograd.grad(out.sum(), args[4:], allow_unused=True) == (None,) * 6
    assert asked[:2] == [True, False]


class OnGPU:
    """What is asked of a tensor on a CUDA device before a kernel is chosen for it."""

    device = torch.device("cuda:0")

    def __init__(self, columns, dtype=torch.float32):
        self.shape, self.dtype = (5, columns), dtype


@pytest.mark.parametrize(
    ("shared", "expected"),
    [(227 << 10, True), (163 << 10, False), (99 << 10, False), (0, False)],
    ids=["H100", "A100", "RTX 4090", "not said"],
)
def test_kernels_are_for_devices_that_have_room_for_them(monkeypatch, shared, expected):
    monkeypatch.setattr(fused_messages, "use_triton", lambda values: True)
    monkeypatch.setattr(fused_messages, "shared_memory", lambda device: shared)
    node = OnGPU(MOST_FUSED)
    assert has_kernels(node, OnGPU(8), OnGPU(1), node) is expected
    assert not has_kernels(OnGPU(MOST_FUSED + 1), OnGPU(8), OnGPU(1), node)
    assert not has_kernels(node, OnGPU(MOST_FUSED + 1), OnGPU(1), node)


def test_kernels_are_for_one_precision_of_all(monkeypatch):
    monkeypatch.setattr(fused_messages, "use_triton", lambda values: True)
    monkeypatch.setattr(fused_messages, "shared_memory", lambda device: 227 << 10)
    single, double, half = (OnGPU(8, dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16))
    assert has_kernels(single, single, single, single)
    assert has_kernels(double, double, double, double)
    assert not has_kernels(half, half, half, half)
    assert not has_kernels(half, single, single, single)  # as autocast has it
    monkeypatch.setattr(fused_messages, "use_triton", lambda values: False)
    assert not has_kernels(single, single, single, single)
