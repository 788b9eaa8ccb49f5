"""Counted work is that of the formulas."""

from __future__ import annotations

import pytest
import torch

from geomol.bench.roofline import Machine, Work, count_work, measure_machine
from geomol.checks import disordered_molecules
from geomol.graph import build_graph
from geomol.models import EGNN
from geomol.ops import gated_messages, separable_conv
from geomol.potential import Potential


def test_products_and_bytes_of_a_layer_are_counted_with_its_derivatives() -> None:
    x, w = torch.randn(50, 8, requires_grad=True), torch.randn(8, 12, requires_grad=True)
    forward = count_work(lambda: torch.mm(x, w))
    assert forward.flops == 2 * 50 * 8 * 12
    assert forward.bytes == 4 * (50 * 8 + 8 * 12 + 50 * 12)
    assert count_work(lambda: torch.mm(x, w).sum().backward()).flops == 3 * forward.flops


@pytest.mark.parametrize("attention", [False, True])
def test_a_fused_edge_block_does_the_work_of_the_plain_one(attention: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are derivatives by weights formed, which nobody can ask for."""
    molecules = disordered_molecules(2, seed=0)
    elements = sorted({z for atoms in molecules for z in atoms.numbers.tolist()})
    backbone = EGNN(elements=elements, channels=8, num_layers=2, cutoff=4.0, attention=attention)
    potential = Potential(backbone, elements=elements, e0=[0.0] * len(elements))
    graph, fused = build_graph(molecules, 4.0), []
    plain = count_work(lambda: potential(graph)).flops

    def seen(*args: object) -> torch.Tensor:
        fused.append(args)
        return gated_messages(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("geomol.models.egnn_layer.has_kernels", lambda *tensors: True)
    monkeypatch.setattr("geomol.models.egnn_layer.gated_messages", seen)
    assert count_work(lambda: potential(graph)).flops == plain > 0
    assert len(fused) == 2


def test_a_separable_convolution_does_the_work_of_its_products() -> None:
    graph = build_graph(disordered_molecules(2, seed=0), 4.0)
    nodes, edges, o, degrees, k, c = graph.num_nodes, graph.num_edges, 5, 3, 4, 7
    shapes = (nodes, o, c), (edges, o, degrees), (edges, k), (k, degrees, c)
    args = [torch.randn(shape, requires_grad=True) for shape in shapes]
    mixed, projected = 2 * edges * k * degrees * c, 2 * edges * o * degrees * c
    assert count_work(lambda: separable_conv(*args, graph)).flops == mixed + projected
    forward_and_back = count_work(lambda: separable_conv(*args, graph).sum().backward()).flops
    assert forward_and_back == 3 * mixed + 4 * projected  # by x, A and R; from R on by r and W
    some = count_work(
        lambda: torch.autograd.grad(separable_conv(*[a.detach() for a in args[:3]], args[3], graph).sum(), args[3])
    )
    assert some.flops == 2 * mixed + 2 * projected


def test_views_cost_nothing_and_elementwise_work_is_traffic_alone() -> None:
    x = torch.randn(64, 16)
    assert count_work(lambda: x.view(16, 64).T[3:]) == Work(0, 0)
    assert count_work(lambda: x + 1.0) == Work(0, 2 * 4 * 64 * 16)
    assert count_work(lambda: x.clone().add_(1.0)) == Work(0, 4 * 4 * 64 * 16)  # in place: read and written as well


def test_floors_are_work_over_speed() -> None:
    machine = Machine(flops_per_s=2e9, bytes_per_s=1e9)
    assert machine.floor_s(Work(10**9, 0)) == 0.5
    assert machine.stream_s(Work(0, 3 * 10**9)) == 3.0
    measured = measure_machine(torch.float32, torch.device("cpu"))
    assert measured.flops_per_s > 1e8
    assert measured.bytes_per_s > 1e8
