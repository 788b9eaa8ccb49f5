"""Vectors of PONITA without orientations: exact, blind to the observer's velocity, smooth at the cutoff."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase import Atoms
from torch import Tensor

from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models import Ponita

SMALL: dict[str, Any] = {"elements": [1, 8], "channels": 8, "num_layers": 2, "orientations": "none", "cutoff": 3.0}
POLYNOMIAL: dict[str, Any] = {"kernel": "polynomial", "basis_dim": 8, "degree": 2}


def make(**changes: Any) -> Ponita:
    torch.manual_seed(1)
    return Ponita(**{**SMALL, **POLYNOMIAL, "in_vectors": 1, "out_vectors": 2, **changes}).double()


def cloud(seed: int = 0, vectors: int = 1) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    pos = 1.3 * torch.randn(7, 3, generator=generator, dtype=torch.float64)
    graph = build_graph(Atoms([1, 8, 1, 8, 1, 1, 8], pos.numpy()), 3.0)
    if not vectors:
        return graph
    return graph.replace(node_vectors=torch.randn(7, vectors, 3, generator=generator, dtype=torch.float64))


def transformed(graph: Graph, turn: Tensor) -> Graph:
    pos = graph.pos @ turn.T + 2.0
    moved = build_graph(Atoms(graph.numbers.numpy(), pos.numpy()), 3.0)
    given = graph.node_vectors
    return moved if given is None else moved.replace(node_vectors=given @ turn.T)


@pytest.mark.parametrize("vectors", [0, 1, 2])
@pytest.mark.parametrize("reflected", [False, True])
def test_vectors_turn_with_the_structure(vectors: int, reflected: bool) -> None:
    graph, turn = cloud(vectors=vectors), random_rotations(1, generator=torch.Generator().manual_seed(3))[0]
    turn = -turn if reflected else turn
    model = make(in_vectors=vectors)
    model.requires_grad_(False)
    here, there = model(graph), model(transformed(graph, turn))
    assert here.vectors is not None
    assert here.vectors.shape == (7, 2, 3)
    assert bool((here.vectors.norm(dim=2) > 0).all())
    torch.testing.assert_close(there.vectors, here.vectors @ turn.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(there.scalars, here.scalars, rtol=0, atol=1e-12)
    unturned = transformed(graph, turn).replace(node_vectors=graph.node_vectors)
    if vectors:  # the control: vectors that stay behind are seen
        assert float((model(unturned).scalars - here.scalars).abs().max()) > 1e-4


def test_scalars_do_not_see_the_observers_velocity() -> None:
    graph, model = cloud(), make().requires_grad_(False)
    boosted = graph.replace(node_vectors=graph.node_vectors + torch.tensor([0.3, -1.0, 2.0]))
    torch.testing.assert_close(model(boosted).scalars, model(graph).scalars, rtol=0, atol=1e-12)
    one = graph.node_vectors.clone()
    one[0] += 1.0
    assert float((model(graph.replace(node_vectors=one)).scalars - model(graph).scalars).abs().max()) > 1e-4


def test_vectors_of_two_nodes_are_the_written_formula() -> None:
    graph = build_graph(Atoms([1, 8], [[0.0, 0.0, 0.0], [0.4, 1.1, -0.3]]), 3.0)
    graph = graph.replace(node_vectors=torch.tensor([[[0.1, 0.2, 0.3]], [[-1.0, 0.5, 0.0]]], dtype=torch.float64))
    model = make(out_vectors=1, num_layers=1)
    assert model.to_vectors is not None
    x, basis, _ = model._lifted(graph)
    h = model.blocks[0](x, basis, graph)
    head = model.to_vectors
    r = graph.pos[1] - graph.pos[0]
    w = (graph.node_vectors[1] - graph.node_vectors[0])[0]
    edge = int((graph.dst == 0).nonzero()[0])
    weight = head.kernel.on_edges(basis)[0][edge] * head.sender(h)[1]
    gates = head.receiver(h)[0]
    expected = (gates[:8] @ weight) * r + (gates[8:16] @ weight) * w + gates[16] * graph.node_vectors[0, 0]
    torch.testing.assert_close(model(graph).vectors[0, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", ["polynomial", "legendre"])
def test_vectors_vanish_smoothly_at_the_cutoff(kernel: str) -> None:
    extra = {"kernel": kernel} if kernel == "legendre" else POLYNOMIAL
    torch.manual_seed(0)
    model = Ponita(**SMALL, out_vectors=1, **extra).double()

    def vector(distance: float) -> Tensor:
        graph = build_graph(Atoms([1, 8, 1], [[0, 0, 0], [1.0, 0, 0], [0, distance, 0]]), 3.0)
        out: Tensor = model(graph).vectors[0, 0].detach()
        return out

    assert float((vector(3.0 - 1e-4) - vector(3.0 + 1e-4)).abs().max()) < 1e-9
    assert float((vector(2.0) - vector(3.1)).abs().max()) > 1e-5


def test_derivatives_with_equal_vectors_are_finite() -> None:
    graph, model = cloud(), make()
    given = torch.ones_like(graph.node_vectors).requires_grad_()
    model(graph.replace(node_vectors=given)).vectors.sum().backward()
    assert given.grad is not None
    assert bool(given.grad.isfinite().all())


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match='reads vectors with kernel="polynomial" alone'):
        Ponita(**SMALL, kernel="legendre", in_vectors=1)
    with pytest.raises(ConfigError, match="`node_vectors` does not fit"):
        make()(cloud(vectors=2))
