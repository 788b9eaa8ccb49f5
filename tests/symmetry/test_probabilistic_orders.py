"""Learned orders of the nodes: exact permutations, soft ones that learn, and their entropy."""

from __future__ import annotations

import math

import pytest
import torch
from symmetry.canonical_case import atoms, gen, graph_of
from symmetry.probabilistic_case import backbone, make, moved, ordered, particles, vectors_of
from torch import Tensor

from geomol.geometry import random_rotations
from geomol.graph import Graph
from geomol.symmetry.permutations import Ordering, hard_permutation, permutation_entropy, soft_permutation


def renumbered(graph: Graph, order: Tensor) -> Graph:
    """Nodes in another order; a complete graph stays the same graph."""
    assert graph.node_scalars is not None
    assert graph.node_vectors is not None
    return graph.replace(
        pos=graph.pos[order], node_scalars=graph.node_scalars[order], node_vectors=graph.node_vectors[order]
    )


def test_learned_orders_make_a_model_that_tells_nodes_apart_equivariant() -> None:
    model, graph = ordered(), particles()
    order = torch.cat([torch.randperm(5, generator=gen(1)), 5 + torch.randperm(5, generator=gen(2))])
    turn = -random_rotations(1, generator=gen())[0]
    noise = model.noise(graph)
    model.given = noise
    here = vectors_of(model, graph)
    model.given = noise[order] @ turn.T
    there = vectors_of(model, moved(renumbered(graph, order), turn))
    assert here.abs().max() > 1e-2
    torch.testing.assert_close(there, here[order] @ turn.T, atol=1e-8, rtol=1e-8)
    alone = vectors_of(model.backbone, graph)
    assert (vectors_of(model.backbone, renumbered(graph, order)) - alone[order]).abs().max() > 1e-2  # the control
    model = ordered(permutations=False)
    model.given = noise
    here = vectors_of(model, graph)
    model.given = noise[order]
    assert (vectors_of(model, renumbered(graph, order)) - here[order]).abs().max() > 1e-2  # and without orders


def test_permutation_matrices_are_exact() -> None:
    scores = torch.randn(20, 7, generator=gen(), dtype=torch.float64, requires_grad=True)
    hard = hard_permutation(scores)
    for matrix in (hard, hard + (soft := soft_permutation(scores, tau=0.1, iterations=20)) - soft.detach()):
        assert torch.equal(matrix.sum(1).round(decimals=12), torch.ones(20, 7).double())
        assert torch.equal(matrix.sum(2).round(decimals=12), torch.ones(20, 7).double())
    assert bool(((hard == 0) | (hard == 1)).all())
    ordering = Ordering(scores.flatten(), torch.arange(21) * 7, tau=0.1, iterations=20, straight_through=True)
    assert torch.equal(ordering.blocks[0][1], hard)  # the straight-through matrix has the same values, to the bit
    placed = torch.einsum("bij,bi->bj", hard, scores)
    assert torch.equal(placed, scores.sort(dim=1, descending=True).values)


def test_soft_permutations_are_doubly_stochastic_and_become_hard_when_cold() -> None:
    scores = torch.nn.functional.normalize(torch.randn(20, 7, generator=gen(), dtype=torch.float64), dim=-1)
    soft = soft_permutation(scores, tau=0.5, iterations=200)
    torch.testing.assert_close(soft.sum(1), torch.ones(20, 7).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(soft.sum(2), torch.ones(20, 7).double(), atol=1e-6, rtol=0)
    cold = soft_permutation(scores, tau=1e-5, iterations=20)
    torch.testing.assert_close(cold, hard_permutation(scores), atol=1e-6, rtol=0)


def test_entropy_is_zero_for_hard_and_largest_for_even_permutations() -> None:
    hard, even = torch.eye(5).double()[None], torch.full((1, 5, 5), 0.2).double()
    assert float(permutation_entropy(hard)) == pytest.approx(0, abs=1e-9)
    assert float(permutation_entropy(even)) == pytest.approx(2 * math.log(5))


def test_orders_of_structures_of_different_sizes_stay_within_them() -> None:
    ptr, scores = torch.tensor([0, 3, 3, 7, 10]), torch.tensor([0.1, 0.9, 0.5, 4, 3, 2, 1, -0.3, -0.1, -0.2]).double()
    ordering = Ordering(scores, ptr, tau=0.1, iterations=5, straight_through=False)
    assert ordering.place.tolist() == [2, 0, 1, 3, 4, 5, 6, 9, 7, 8]
    values = torch.arange(10).double()
    assert ordering.sort(values[:, None])[:, 0].tolist() == [1, 2, 0, 3, 4, 5, 6, 8, 9, 7]
    assert torch.equal(ordering.restore(ordering.sort(values[:, None]))[:, 0], values)


def test_a_sorted_graph_is_the_same_graph_with_other_numbers() -> None:
    graph = graph_of(atoms(), atoms(1, "CH3OH"))
    scores = torch.randn(15, generator=gen(), dtype=torch.float64)
    ordering = Ordering(scores, graph.ptr, tau=0.1, iterations=5, straight_through=False)
    model = backbone()
    found = ordering.restore(model(ordering.sort_graph(graph)).vectors)
    torch.testing.assert_close(found, model(graph).vectors, atol=1e-12, rtol=1e-12)
    assert not torch.equal(ordering.sort_graph(graph).pos, graph.pos)


def test_scores_learn_through_the_soft_permutation_in_training_only() -> None:
    model, graph = ordered(), particles()
    for training in (True, False):
        model.train(training)
        model.zero_grad()
        model(graph).vectors.square().sum().backward()
        grad = model.pose.score.weight.grad
        assert (grad is not None and float(grad.abs().max()) > 0) == training


def test_penalty_is_the_weighted_entropy_of_the_orders() -> None:
    model, graph = ordered(entropy_weight=0.5), particles()
    model(graph)
    penalty = model.penalty()
    ordering = model._draw(graph)[1]
    assert penalty is not None
    assert ordering is not None
    assert float(penalty.detach()) == pytest.approx(0.5 * float(ordering.entropy.detach()))
    assert penalty.requires_grad
    assert 0 < float(penalty.detach()) < math.log(5)
    plain = make()
    plain(graph_of(atoms()))
    assert plain.penalty() is None
