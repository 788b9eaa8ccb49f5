"""Counted work is that of the formulas."""

from __future__ import annotations

import torch

from geomol.bench.roofline import Machine, Work, count_work, measure_machine


def test_products_and_bytes_of_a_layer_are_counted_with_its_derivatives() -> None:
    x, w = torch.randn(50, 8, requires_grad=True), torch.randn(8, 12, requires_grad=True)
    forward = count_work(lambda: torch.mm(x, w))
    assert forward.flops == 2 * 50 * 8 * 12
    assert forward.bytes == 4 * (50 * 8 + 8 * 12 + 50 * 12)
    assert count_work(lambda: torch.mm(x, w).sum().backward()).flops == 3 * forward.flops


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
