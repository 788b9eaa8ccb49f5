"""Layer normalisation: PyTorch's values, and derivatives that are right beyond the second."""

import pytest
import torch
from ase.build import molecule
from torch import nn

from geomol.graph import build_graph
from geomol.models import Ponita
from geomol.nn import LayerNorm
from geomol.potential import Potential, hessian_vector


def rows(num=7):
    return torch.randn(num, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(num))


def ours_and_theirs():
    ours, theirs = LayerNorm(5).double(), nn.LayerNorm(5).double()
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(0.5, 2.0, 5))
        ours.bias.copy_(torch.linspace(-1.0, 1.0, 5))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def along(norm, x, step, order):
    """The derivative of this order along a step: all but the last factor."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad((norm(x) * step).square().sum(), x, create_graph=True)
    for _ in range(order - 1):
        (grad,) = torch.autograd.grad((grad * step).sum(), x, create_graph=True)
    return grad.detach()


def test_values_and_first_derivatives_are_those_of_pytorch():
    ours, theirs = ours_and_theirs()
    for create_graph in (False, True):
        found = []
        for norm in (ours, theirs):
            x = rows().requires_grad_()
            out = norm(x)
            inputs = (x, norm.weight, norm.bias)
            found.append((out, *torch.autograd.grad(out.sin().sum(), inputs, create_graph=create_graph)))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_higher_derivatives_are_differences_of_lower_ones(order):
    norm, x, step = ours_and_theirs()[0], rows(), rows(8)[:7]
    step = step / step.norm()
    found, h = along(norm, x, step, order), 1e-4
    lower = [along(norm, x + k * h * step, step, order - 1) for k in (-2, -1, 1, 2)]
    expected = (lower[0] - 8 * lower[1] + 8 * lower[2] - lower[3]) / (12 * h)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_a_loss_of_hessians_is_right():
    torch.manual_seed(0)
    backbone = Ponita(elements=[1, 8], channels=6, num_layers=1, orientations="none", cutoff=4.0)
    potential = Potential(backbone, elements=[1, 8], e0=[0.0, 0.0]).double()
    water = molecule("H2O")
    water.rattle(0.05, seed=0)
    graph = build_graph(water, 4.0)
    step = torch.randn(3, 3, dtype=torch.float64)
    weight = backbone.blocks[0].linear_1.weight

    pos = graph.pos.clone().requires_grad_()
    (grad,) = torch.autograd.grad(potential.node_energy(graph.replace(pos=pos)).sum(), pos, create_graph=True)
    (product,) = torch.autograd.grad((grad * step).sum(), pos, create_graph=True)
    (found,) = torch.autograd.grad(product.square().sum(), weight)

    change, h, sums = torch.randn_like(weight), 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * h * change
        sums.append(float(hessian_vector(potential, graph, step).square().sum()))
        with torch.no_grad():
            weight -= sign * h * change
    assert float((found * change).sum()) == pytest.approx((sums[0] - sums[1]) / (2 * h), rel=1e-6)
