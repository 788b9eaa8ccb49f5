"""On a CUDA device everything gives what it gives on the CPU, and the same bits every time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from geomol.checks import disordered_crystals, disordered_molecules
from geomol.graph import Graph, build_graph
from geomol.models import EGNN, Morse, Ponita
from geomol.ops import conv, edge_dot, gather_receivers, gather_senders, sum_to_receivers
from geomol.potential import Potential

pytestmark = pytest.mark.gpu
ELEMENTS = [1, 6, 7, 8, 11, 14, 17, 26, 29]

BACKBONES: dict[str, Callable[[], torch.nn.Module]] = {
    "egnn": lambda: EGNN(elements=ELEMENTS, channels=32, cutoff=4.0),
    "ponita": lambda: Ponita(elements=ELEMENTS, channels=16, num_layers=2, cutoff=4.0),
    "pnita": lambda: Ponita(elements=ELEMENTS, channels=16, num_layers=2, cutoff=4.0, orientations="none"),
    "morse": lambda: Morse(cutoff=4.0),
}


def structures() -> list[Atoms]:
    return disordered_molecules(6, displacement=0.1) + disordered_crystals(4)


@pytest.fixture(params=list(BACKBONES))
def potential(request: pytest.FixtureRequest) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Potential(BACKBONES[request.param](), elements=ELEMENTS, e0=[0.0] * len(ELEMENTS)).double()


def on_gpu(graph: Graph) -> Graph:
    return graph.to("cuda")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_cuda_equals_cpu(potential: Potential, dtype: torch.dtype, tolerance: float) -> None:
    potential = potential.to(dtype)
    graph = build_graph(structures()[6:], potential.cutoff)
    on_cpu = potential(graph, stress=True)
    out = potential.to("cuda")(on_gpu(graph), stress=True)
    for name in ("energy", "forces", "stress"):
        a, b = getattr(on_cpu, name), getattr(out, name).cpu()
        assert (a - b).abs().max() <= tolerance * (1 + a.abs().max())


def test_a_hundred_runs_give_the_same_bits(potential: Potential) -> None:
    potential = potential.float().to("cuda")
    graph = on_gpu(build_graph(bulk("Cu", cubic=True).repeat(3), potential.cutoff))
    first = potential(graph, stress=True)
    for _ in range(100):
        again = potential(graph, stress=True)
        assert torch.equal(first.energy, again.energy)
        assert torch.equal(first.forces, again.forces)
        assert torch.equal(first.stress, again.stress)


def test_force_training_gradients_equal_those_of_the_cpu_and_repeat(potential: Potential) -> None:
    if not any(p.requires_grad and p.dim() > 0 for p in potential.parameters()):
        pytest.skip("a pair potential has no network to train")
    graph = build_graph(structures()[:6], potential.cutoff)

    def gradients(p: Potential, g: Graph) -> list[torch.Tensor]:
        loss = p(g, create_graph=True).forces.square().sum()
        return list(torch.autograd.grad(loss, list(p.parameters()), allow_unused=True, materialize_grads=True))

    on_cpu = gradients(potential, graph)
    potential = potential.to("cuda")
    first, again = (gradients(potential, on_gpu(graph)) for _ in range(2))
    for a, b, c in zip(on_cpu, first, again, strict=True):
        assert torch.equal(b, c)
        torch.testing.assert_close(a, b.cpu(), atol=1e-9, rtol=1e-7)


def test_operators_are_differentiable_twice_on_cuda() -> None:
    graph = on_gpu(build_graph(structures()[0], 3.0))
    generator = torch.Generator("cuda").manual_seed(0)

    def values(rows: int) -> torch.Tensor:
        x = torch.randn(rows, 2, dtype=torch.float64, device="cuda", generator=generator)
        return x.requires_grad_()

    x, y, w = values(graph.num_nodes), values(graph.num_nodes), values(graph.num_edges)
    for function, inputs in (
        (lambda a, b: conv(a, b, graph), (x, w)),
        (lambda a, b: edge_dot(a, b, graph), (x, y)),
        (lambda a: gather_senders(a, graph) + gather_receivers(a, graph), (x,)),
        (lambda a: sum_to_receivers(a, graph), (w,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
