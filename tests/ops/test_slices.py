"""Networks of rows in slices: the same values and derivatives, and nothing wider than a slice."""

import pytest
import torch
from ase.build import bulk
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from geomol.graph import build_graph
from geomol.models import Ponita, Rapidash
from geomol.ops import linear_of_rows, slices
from geomol.ops.constant import constant_weights
from geomol.potential import Potential

ROWS = 4  # of a slice


@pytest.fixture(autouse=True)
def _short_slices(monkeypatch):
    monkeypatch.setattr(slices, "SLICE_BYTES", ROWS * 3 * 7 * 8)


class Sizes(TorchDispatchMode):
    """The most rows, three to a point, of a hidden layer that any operator gives."""

    def __init__(self, width=7):
        super().__init__()
        self.width, self.most = width, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dim() > 1 and out.shape[-1] == self.width:
            self.most = max(self.most, out.numel() // self.width)
        return out


def a_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 7), nn.GELU()).double(), nn.Linear(7, 2).double()


def both(num, constant, *, bias=True):
    """Values and the derivative by the rows, and the rows of the widest hidden layer on the way."""
    network, last = a_network()
    rows = torch.randn(num, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(num)).requires_grad_()
    with Sizes() as sizes, constant_weights(constant):
        out = linear_of_rows(network, rows, last.weight, last.bias if bias else None)
        (grad,) = torch.autograd.grad(out.sin().sum(), rows)
    return out, grad, sizes.most


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num", [0, 1, 4 * ROWS - 1, 4 * ROWS, 4 * ROWS + 1, 6 * ROWS])
def test_slices_give_what_the_whole_gives(num, bias):
    sliced, plain = both(num, True, bias=bias), both(num, False, bias=bias)
    torch.testing.assert_close(sliced[0], plain[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sliced[1], plain[1], rtol=1e-12, atol=1e-12)


def test_hidden_layers_are_as_long_as_a_slice():
    assert both(10 * ROWS, True)[2] == 3 * ROWS
    assert both(10 * ROWS, False)[2] == 10 * 3 * ROWS


def test_where_weights_are_not_constant_they_have_derivatives_and_so_have_those():
    network, last = a_network()
    rows = torch.randn(10 * ROWS, 3, 5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(linear_of_rows(network, rows, last.weight, last.bias).sum(), rows, create_graph=True)
    grad.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in (*network[:2].parameters(), last.weight))


def test_a_second_derivative_of_slices_is_refused():
    network, last = a_network()
    rows = torch.randn(10 * ROWS, 3, 5, dtype=torch.float64, requires_grad=True)
    with constant_weights():
        out = linear_of_rows(network, rows, last.weight, last.bias)
    (grad,) = torch.autograd.grad(out.square().sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(Ponita(elements=[14], channels=6, num_layers=2, cutoff=4.0, layer_scale=0.3), id="ponita"),
        pytest.param(
            Rapidash(elements=[14], channels=6, num_layers=2, cutoff=4.0, orientations="icosahedral"), id="rapidash"
        ),
        pytest.param(Ponita(elements=[14], channels=6, num_layers=2, cutoff=4.0, orientations="none"), id="pnita"),
    ],
)
def test_a_potential_in_slices_is_the_potential(backbone):
    potential = Potential(backbone, elements=[14], e0=[0.0], allow_discontinuous=True).double()
    crystal = bulk("Si", cubic=True).repeat((2, 2, 2))
    crystal.rattle(0.1, seed=1)
    graph = build_graph(crystal, potential.cutoff)
    with Sizes(width=24) as sliced:
        fast = potential(graph, stress=True)
    with Sizes(width=24) as whole:
        slow = potential(graph, stress=True, create_graph=True)
    assert 4 * sliced.most < whole.most
    for name in ("energy", "node_energy", "forces", "stress"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name).detach(), rtol=1e-11, atol=1e-11)
    assert float(fast.forces.abs().max()) > 1e-3


def test_half_precision_products_give_the_same_in_slices():
    network, last = a_network()
    network, last = network.float(), last.float()
    rows = torch.randn(10 * ROWS, 3, 5, requires_grad=True)
    results = []
    for constant in (True, False):
        with constant_weights(constant), torch.autocast("cpu", dtype=torch.bfloat16):
            out = linear_of_rows(network, rows, last.weight, last.bias)
            results.append((out.float(), *torch.autograd.grad(out.float().sin().sum(), rows)))
    for sliced, whole in zip(*results, strict=True):
        torch.testing.assert_close(sliced, whole, rtol=2e-2, atol=2e-2)
