"""A traced step gives the potential's energies, forces and stress, and the gradients of losses on all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from geomol.compiled import Form, check_step, strip_detaches, trace_step
from geomol.compiled.form import sample_graphs
from geomol.compiled.step import runner
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import EGNN, MPNN, Features, Morse, Ponita, Symmetry
from geomol.potential import Potential

ELEMENTS = [1, 8]
TRAINING = Form(periodic=True, single=False, stress=True, training=True)

# operators of the backbones in geomol: activations, norms, radial functions, envelopes, softmax, products
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "relu²": lambda x: torch.relu(x).square(),
    "softplus": nn.functional.softplus,
    "leaky_relu": nn.functional.leaky_relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "rsqrt": lambda x: (x * x + 1).rsqrt(),
    "reciprocal": lambda x: 1 / (x * x + 1),
    "norm": lambda x: x.norm(dim=1, keepdim=True) * x,
    "softmax": lambda x: torch.softmax(x, dim=1) * x,
    "layer_norm": lambda x: nn.functional.layer_norm(x, x.shape[1:]) ** 3,
    "sin": torch.sin,
    "clamp": lambda x: x.clamp(max=0.5) ** 3,
    "pow": lambda x: x**6,
    "det": lambda x: torch.linalg.det(x[:3, :3]) * x,
    "cumulative": lambda x: x.cumsum(0) * x,
    "einsum": lambda x: torch.einsum("nc,mc,md->nd", x, x, x),
    "where": lambda x: torch.where(x > 0, x**3, x**2),
    "scatter": lambda x: x.new_zeros(2, 4).index_add(0, torch.tensor([0, 1, 1, 0, 1]), x) ** 3,
}
# operators whose derivative is written with their result, which a plain trace cuts off
USE_THEIR_RESULT = ["tanh", "sigmoid", "exp", "sqrt", "rsqrt", "reciprocal", "norm", "softmax"]


def second_derivative_error(operation: Callable[[Tensor], Tensor], *, strip: bool) -> float:
    """Relative error of the gradient of Σ (dE/dx)² by the weight, with dE/dx from a traced graph."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, weight = torch.randn(5, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    def forces(x: Tensor, weight: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = operation(x @ weight).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    traced = make_fx(forces)(x, weight)
    assert (strip_detaches(traced) if strip else 1) > 0
    gradients = []
    for function in (forces, traced):
        leaf = weight.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(x, leaf).square().sum(), leaf)
        gradients.append(gradient)
    expected, got = gradients
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_second_derivatives_of_a_traced_operator_are_exact(name: str) -> None:
    assert second_derivative_error(OPERATIONS[name], strip=True) < 1e-13


@pytest.mark.parametrize("name", USE_THEIR_RESULT)
def test_without_stripping_they_are_wrong(name: str) -> None:
    """The control: a plain trace has this fault, and the measure above finds it."""
    assert second_derivative_error(OPERATIONS[name], strip=False) > 0.05


def backbones() -> dict[str, Callable[[], nn.Module]]:
    small = {"elements": ELEMENTS, "channels": 4, "num_layers": 1, "cutoff": 4.0}
    return {
        "egnn": lambda: EGNN(**small, num_radial=2, update_pos=True, tanh=True, attention=True, scaling="norm_diff"),
        "ponita": lambda: Ponita(**small, num_radial=2),
        "pnita polynomial": lambda: Ponita(**small, kernel="polynomial", orientations="none", basis_dim=4),
        "mpnn": lambda: MPNN(**small, num_radial=2),
        "morse": lambda: Morse(cutoff=4.0),
    }


def potential_of(backbone: Callable[[], nn.Module], *, zbl: bool = False) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Potential(backbone(), elements=ELEMENTS, e0=[-13.5, -2042.0], scale=0.7, zbl=zbl).double().eval()


@pytest.mark.parametrize("name", list(backbones()))
def test_traced_steps_train_as_the_potential_does(name: str) -> None:
    potential = potential_of(backbones()[name], zbl=name == "morse")
    graphs = sample_graphs(potential, TRAINING)
    assert len({graph.num_nodes for graph in graphs}) == 2
    traced = trace_step(potential, graphs[0], TRAINING)
    check_step(potential, runner(traced, None, TRAINING), TRAINING, graphs)


def test_the_check_names_the_gradient_that_a_plain_trace_gets_wrong() -> None:
    """The control: without stripping, energies and forces are right, and training on them is not."""
    potential = potential_of(backbones()["egnn"])
    graphs = sample_graphs(potential, TRAINING)
    step = runner(trace_step(potential, graphs[0], TRAINING, strip=False), None, TRAINING)
    with pytest.raises(ConfigError, match=r"does not compute.*training gradient of backbone\..*use it without compile"):
        check_step(potential, step, TRAINING, graphs)


@pytest.mark.parametrize(("which", "named"), [(0, "energies"), (2, "forces"), (3, "strain derivative")])
def test_the_check_names_any_other_result_that_is_off(which: int, named: str) -> None:
    potential = potential_of(backbones()["morse"])
    form = Form(periodic=True, single=True, stress=True, training=False)
    graphs = sample_graphs(potential, form)
    exact = runner(trace_step(potential, graphs[0], form), None, form)

    def wrong(graph: Graph) -> list[Tensor]:
        values = list(exact(graph))
        if graph.num_nodes == graphs[1].num_nodes:  # right for one size only
            values[which] = values[which] * (1 + 1e-9)
        return values

    check_step(potential, exact, form, graphs)
    with pytest.raises(ConfigError, match=rf"expected {named} within 1.0e-10 \(relative\), got"):
        check_step(potential, wrong, form, graphs)


class Choosy(nn.Module):
    """A backbone whose course depends on the values of the positions."""

    cutoff = 4.0
    symmetry = Symmetry(group="E(3)", exact=True, smooth=True)

    def forward(self, graph: Graph) -> Features:
        squares = graph.pos.square().sum(1, keepdim=True)
        return Features(squares if bool((squares > 1).any()) else -squares)


def test_a_course_that_depends_on_values_is_refused() -> None:
    potential = potential_of(Choosy)
    form = Form(periodic=False, single=True, stress=False, training=False)
    with pytest.raises(ConfigError, match="cannot be compiled"):
        trace_step(potential, sample_graphs(potential, form)[0], form)


def test_a_molecule_step_reads_nothing_that_takes_time_to_derive() -> None:
    potential = potential_of(backbones()["ponita"])
    form = Form(periodic=False, single=True, stress=False, training=False)
    assert trace_step(potential, sample_graphs(potential, form)[0], form).fields == ("pos", "numbers", "edge_index")
