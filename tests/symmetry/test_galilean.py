"""Boosts: a drifting system is forecast like one at rest, and its centre of mass moves uniformly."""

from __future__ import annotations

import pytest
import torch

from geomol.errors import ConfigError
from geomol.graph import Graph, GraphStore
from geomol.models import EGNN, MPNN
from geomol.symmetry import Galilean, build_backbone


def systems(num: int = 3, *, seed: int = 0) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    pos = torch.randn(5 * num, 3, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(5 * num, dtype=torch.int64)
    ptr, cell = torch.arange(0, 5 * num + 1, 5), torch.zeros(num, 3, 3)
    store = GraphStore.from_arrays(pos, zeros, ptr, cell, torch.zeros(num, 3, dtype=torch.bool))
    velocity = torch.randn(5 * num, 1, 3, generator=generator, dtype=torch.float64)
    charge = 1.0 - 2.0 * torch.randint(2, (5 * num, 1), generator=generator)
    return store.batch(torch.arange(num)).replace(node_vectors=velocity, node_scalars=charge.double())


def egnn() -> EGNN:
    torch.manual_seed(0)
    return EGNN(
        cutoff=float("inf"), envelope=False, num_radial=0, in_scalars=1, in_vectors=1, out_vectors=1, channels=8,
        update_pos=True, speed_input=True, edge_inputs=("charge_product", "squared_distance"), readout="none",
    ).double()  # fmt: skip


def displacement(model: torch.nn.Module, graph: Graph) -> torch.Tensor:
    return model(graph).vectors[:, 0]


def test_a_boost_moves_the_forecast_with_it_and_a_bare_backbone_does_not() -> None:
    graph, boost = systems(), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    boosted = graph.replace(node_vectors=graph.node_vectors + boost)
    model = Galilean(egnn(), horizon=0.7)
    difference = displacement(model, boosted) - displacement(model, graph) - 0.7 * boost
    assert difference.abs().max() < 1e-13
    bare = displacement(egnn(), boosted) - displacement(egnn(), graph) - 0.7 * boost
    assert bare.abs().max() > 1e-2


def test_the_centre_of_mass_moves_uniformly() -> None:
    graph = systems()
    mean = displacement(Galilean(egnn()), graph).view(3, 5, 3).mean(1)
    torch.testing.assert_close(mean, graph.node_vectors.view(3, 5, 3).mean(1), atol=1e-14, rtol=0)
    free = displacement(Galilean(egnn(), conserve=False), graph).view(3, 5, 3).mean(1)
    assert (free - mean).abs().max() > 1e-6


def test_translations_leave_a_backbone_on_absolute_coordinates_alone() -> None:
    torch.manual_seed(0)
    inner = MPNN(
        coordinates="absolute", cutoff=float("inf"), envelope=False, num_radial=0, in_scalars=1, in_vectors=1,
        out_scalars=0, out_vectors=1, edge_inputs=("charge_product",), predicts="position", channels=8,
    ).double()  # fmt: skip
    graph, model = systems(), Galilean(inner)
    assert model.symmetry.group == "T(3)"
    moved = graph.replace(pos=graph.pos + 5.0)
    assert (displacement(model, moved) - displacement(model, graph)).abs().max() < 1e-12
    assert (displacement(inner, moved) - displacement(inner, graph)).abs().max() > 1e-3


def test_it_is_built_from_a_configuration_and_names_what_is_missing() -> None:
    config = {"name": "galilean", "horizon": 2.0, "backbone": {"name": "linear_motion"}}
    model = build_backbone(config)
    assert isinstance(model, Galilean)
    with pytest.raises(ConfigError, match="needs velocities"):
        model(systems().replace(node_vectors=None))
