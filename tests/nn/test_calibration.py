"""Calibrated weights give features of order one, which default weights do not."""

from __future__ import annotations

import torch
from ase.build import molecule
from torch import nn

from geomol.graph import build_graph, edge_vectors
from geomol.models import EGNN, Ponita
from geomol.nn import unit_variance


def test_every_layer_but_the_last_gets_unit_spread() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 30), nn.SiLU(), nn.Linear(30, 30), nn.SiLU(), nn.Linear(30, 1)).double()
    x = 0.01 * torch.randn(200, 5, dtype=torch.float64)
    before, last = model[:3](x).std().item(), model[4].weight.clone()
    unit_variance(model, lambda: model(x))
    assert before < 0.2  # the control: without calibration the spread is lost
    torch.testing.assert_close(model[0](x).std(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(model[:3](x).std(), torch.tensor(1.0, dtype=torch.float64))
    assert torch.equal(model[4].weight, last)


def test_calibration_is_repeatable_and_leaves_no_hooks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
    x = torch.randn(50, 4)
    unit_variance(model, lambda: model(x))
    once = [p.clone() for p in model.parameters()]
    unit_variance(model, lambda: model(x))
    for a, b in zip(once, model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not any(m._forward_hooks for m in model.modules())


def test_a_calibrated_egnn_sees_geometry_more_than_a_default_one() -> None:
    atoms = [molecule("CH3CH2OH") for _ in range(8)]
    generator = torch.Generator().manual_seed(0)
    for a in atoms:
        a.positions += 0.1 * torch.randn(9, 3, generator=generator).numpy()
    graph = build_graph(atoms, 5.0)

    def spread(model: EGNN) -> float:
        energy = model(graph).scalars[:, 0].view(8, 9)
        return energy.std(0).mean().item()

    torch.manual_seed(1)
    model = EGNN(elements=[1, 6, 8], channels=32, cutoff=5.0)
    before = spread(model)
    model.calibrate(graph)
    assert spread(model) > 5 * before


def test_calibrated_convolutions_of_ponita_keep_the_spread_of_their_input() -> None:
    graph = build_graph([molecule("CH3CH2OH"), molecule("C6H6")], 5.0)
    torch.manual_seed(0)
    model = Ponita(elements=[1, 6, 8], channels=16, num_layers=2, cutoff=5.0)
    ratios = []
    for _ in range(2):
        x = model.lift(graph, model.grid)
        basis = model.basis(edge_vectors(graph, x.dtype), model.grid)
        block = model.blocks[0]
        y = block.mix_orientations(block.convolve(x, basis, graph), basis)
        ratios.append((y.std() / x.std()).item())
        model.calibrate(graph)
    assert abs(ratios[0] - 1) > 0.1
    assert abs(ratios[1] - 1) < 1e-3
