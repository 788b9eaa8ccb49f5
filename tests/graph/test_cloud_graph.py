"""Graphs of point clouds: the fields of the record, and agreement with the search for atoms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geomol.errors import InputError
from geomol.graph import (
    brute_force_neighbour_list,
    edge_vectors,
    graph_from_edges,
    knn,
    knn_graph,
    pooling_edges,
    radius_graph_of_cloud,
)

POS = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PTR = torch.tensor([0, 20, 50])


def test_a_graph_of_nearest_neighbours_has_them_as_senders() -> None:
    normals = torch.nn.functional.normalize(POS, dim=1)[:, None]
    graph = knn_graph(POS, PTR, 4, node_vectors=normals)
    edges = knn(POS, PTR, 4)
    assert torch.equal(graph.src, edges.src)
    assert torch.equal(graph.dst, edges.dst)
    assert torch.equal(edge_vectors(graph), POS[edges.src] - POS[edges.dst])
    assert (graph.num_graphs, graph.num_nodes, graph.num_edges) == (2, 50, 200)
    assert graph.numbers.tolist() == [0] * 50
    assert graph.batch.tolist() == [0] * 20 + [1] * 30
    assert torch.equal(graph.edge_ptr, 4 * torch.arange(51))
    assert torch.equal(graph.send_perm, edges.send_perm)
    assert torch.equal(graph.send_ptr, edges.send_ptr)
    assert graph.node_vectors is normals
    assert not graph.is_periodic


def test_a_point_can_be_its_own_neighbour() -> None:
    graph = knn_graph(POS, PTR, 4, include_self=True)
    assert torch.equal(graph.src[::4], torch.arange(50))  # distance 0: always the first
    assert not bool((knn_graph(POS, PTR, 4).src == knn_graph(POS, PTR, 4).dst).any())


def test_a_graph_within_a_radius_is_that_of_the_atoms_search() -> None:
    graph = radius_graph_of_cloud(POS, PTR, 1.2)
    assert graph.cutoff == 1.2
    begin = 0
    for first, last in ((0, 20), (20, 50)):
        dst, src, _ = brute_force_neighbour_list(POS[first:last].numpy(), np.zeros((3, 3)), np.zeros(3, bool), 1.2)
        end = begin + len(dst)
        np.testing.assert_array_equal(graph.dst[begin:end], dst + first)
        np.testing.assert_array_equal(graph.src[begin:end], src + first)
        begin = end
    assert begin == graph.num_edges


def test_positions_keep_their_gradient() -> None:
    pos = POS.clone().requires_grad_()
    edge_vectors(knn_graph(pos, PTR, 3)).square().sum().backward()
    assert pos.grad is not None
    assert bool((pos.grad.abs().sum(1) > 0).all())


def test_one_point_has_no_neighbour_and_edges_of_other_points_are_refused() -> None:
    graph = knn_graph(POS[:1], torch.tensor([0, 1]), 8)
    assert (graph.num_nodes, graph.num_edges) == (1, 0)
    with pytest.raises(InputError, match="not of these points"):
        graph_from_edges(POS, PTR, pooling_edges(POS, PTR, POS[[0, 20]], torch.tensor([0, 1, 2])))
