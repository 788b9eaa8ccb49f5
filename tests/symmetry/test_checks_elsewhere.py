"""Checks of a model that is not on the CPU: it gets graphs where it is. Another device is stood in for by "meta"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor, nn

from geomol.checks import batch_error, energy_of, forces_of, rotation_errors, stress_error
from geomol.checks.audit import off_the_grid
from geomol.checks.place import asked_there, device_of
from geomol.graph import Graph, build_graph
from geomol.models import Symmetry
from geomol.potential import Prediction

ATOMS = bulk("Cu", cubic=True)


class Elsewhere(nn.Module):
    """A potential on another device that counts atoms, and gives its answers on the CPU, where they can be read."""

    cutoff, elements, e0_values = 3.0, (29,), (0.0,)
    symmetry = Symmetry("E(3)", exact=True, smooth=True)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))
        self.seen: set[str] = set()

    def forward(self, graph: Graph, *, forces: bool = True, stress: bool = False) -> Prediction:
        self.seen.add(graph.device.type)
        nodes, structures = graph.num_nodes, graph.num_graphs
        energy = torch.full((structures,), nodes / structures, dtype=torch.float64)
        zeros = torch.zeros(nodes, 3, dtype=torch.float64)
        return Prediction(energy, zeros[:, 0], zeros, torch.zeros(structures, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    "check",
    [
        lambda model: energy_of(model, [ATOMS])[0] == len(ATOMS),
        lambda model: np.array_equal(forces_of(model, ATOMS), np.zeros((len(ATOMS), 3))),
        lambda model: stress_error(model, ATOMS) == (0.0, 0.0),
        lambda model: rotation_errors(model, ATOMS, 2) == (0.0, 0.0),
        lambda model: batch_error(model, [ATOMS, ATOMS]) == (0.0, 0.0),
    ],
)
def test_checks_build_graphs_where_the_potential_is(check: Callable[[nn.Module], bool]) -> None:
    model = Elsewhere()
    assert check(model)
    assert model.seen == {"meta"}


def test_an_audited_model_is_asked_where_it_is_and_answers_where_it_was_asked() -> None:
    seen: list[str] = []

    def outputs(graph: Graph) -> dict[str, Tensor]:
        seen.append(graph.device.type)
        return {"energy": graph.pos.sum()}

    graph = build_graph(ATOMS, 3.0)
    pos = graph.pos.clone().requires_grad_()
    there = asked_there(nn.Linear(1, 1), outputs, graph.replace(pos=pos))
    (gradient,) = torch.autograd.grad(there["energy"], pos)
    assert torch.equal(gradient, torch.ones_like(pos))
    with pytest.raises(NotImplementedError, match="meta"):  # nothing can be brought back from there
        asked_there(Elsewhere(), outputs, graph)
    assert seen == ["cpu", "meta"]
    assert device_of(Elsewhere()) == torch.device("meta")


def test_audits_move_structures_on_the_cpu() -> None:
    graph = build_graph(ATOMS, 3.0)
    assert off_the_grid(graph).device == torch.device("cpu")
    with pytest.raises(NotImplementedError, match="meta"):
        off_the_grid(graph.to("meta"))
