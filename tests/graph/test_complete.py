"""All pairs without a neighbour list: the same graph as by way of ASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from geomol.graph import Graph, build_graph, complete_graph
from geomol.ops import sum_to_receivers

SIZES = [[3, 5, 1, 4], [1], [6], [2, 2], [1, 1, 1], [1, 7]]


def both(sizes: list[int]) -> tuple[Graph, Graph]:
    rng = np.random.default_rng(0)
    frames = [Atoms(numbers=rng.integers(1, 9, n), positions=rng.normal(size=(n, 3))) for n in sizes]
    expected = build_graph(frames, 5.0, complete=True)
    return complete_graph(expected.pos, expected.numbers, expected.ptr), expected


@pytest.mark.parametrize("sizes", SIZES)
def test_it_equals_the_complete_graph_of_the_builder(sizes: list[int]) -> None:
    graph, expected = both(sizes)
    for name in ("edge_index", "edge_ptr", "cell_shift", "cell", "pbc", "batch", "ptr", "numbers", "pos"):
        assert torch.equal(getattr(graph, name), getattr(expected, name)), name
    assert graph.cutoff == expected.cutoff
    assert graph.is_periodic is False
    # these two are set by a formula here, and derived by sorting there
    assert "send_perm" in graph.__dict__
    assert "send_perm" not in expected.__dict__
    assert torch.equal(graph.send_perm, expected.send_perm)
    assert torch.equal(graph.send_ptr, expected.send_ptr)


def test_the_transposed_order_is_sorted_by_sender() -> None:
    graph, _ = both([3, 1, 4])
    senders = graph.src[graph.send_perm]
    assert bool((senders.diff() >= 0).all())
    for node in range(graph.num_nodes):
        rows = graph.send_perm[graph.send_ptr[node] : graph.send_ptr[node + 1]]
        assert bool((graph.src[rows] == node).all())
        assert torch.equal(graph.dst[rows], graph.dst[rows].sort().values)


def test_every_node_hears_all_others_once() -> None:
    graph, _ = both([4, 1, 2])
    heard = sum_to_receivers(torch.ones(graph.num_edges, 1, dtype=torch.float64), graph)
    assert heard[:, 0].tolist() == [3, 3, 3, 3, 0, 1, 1]
    assert bool((graph.batch[graph.src] == graph.batch[graph.dst]).all())


def test_inputs_of_nodes_are_passed_on() -> None:
    scalars, vectors = torch.randn(3, 2), torch.randn(3, 1, 3)
    graph = complete_graph(
        torch.randn(3, 3),
        torch.zeros(3, dtype=torch.long),
        torch.tensor([0, 1, 3]),
        node_scalars=scalars,
        node_vectors=vectors,
    )
    assert graph.node_scalars is scalars
    assert graph.node_vectors is vectors


def test_no_structures_at_all() -> None:
    graph = complete_graph(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    assert (graph.num_graphs, graph.num_nodes, graph.num_edges) == (0, 0, 0)
