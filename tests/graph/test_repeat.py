"""Copies of structures in one batch are the batch that would be built of them anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomol.graph import Graph, build_graph, edge_vectors, repeat_structures

ORDERS = {
    "copies": [0, 0, 0, 1, 2, 2],
    "any order": [2, 0, 1, 0],
    "left out": [3, 1],
    "the same": [0, 1, 2, 3],
    "one": [2],
}


def structures() -> list[Atoms]:
    made = [molecule("CH3OH"), bulk("NaCl", "rocksalt", a=5.64), Atoms("H"), molecule("H2O")]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed)
    return made


def with_inputs(graph: Graph) -> Graph:
    random = torch.Generator().manual_seed(0)
    scalars = torch.randn(graph.num_nodes, 2, generator=random, dtype=torch.float64)
    vectors = torch.randn(graph.num_nodes, 1, 3, generator=random, dtype=torch.float64)
    return graph.replace(node_scalars=scalars, node_vectors=vectors)


def assert_equal(found: Graph, expected: Graph) -> None:
    names = ("pos", "numbers", "edge_index", "edge_ptr", "cell_shift", "cell", "pbc", "batch", "ptr")
    for name in (*names, "send_perm", "send_ptr"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert (found.cutoff, found.is_periodic) == (expected.cutoff, expected.is_periodic)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("cutoff", [3.0, 6.0])
def test_repeated_structures_are_the_batch_built_anew(order: list[int], cutoff: float) -> None:
    made = structures()
    found, node = repeat_structures(build_graph(made, cutoff), torch.tensor(order))
    assert_equal(found, build_graph([made[k] for k in order], cutoff))
    rows = np.split(np.arange(sum(map(len, made))), np.cumsum([len(a) for a in made])[:-1])
    assert node.tolist() == np.concatenate([rows[k] for k in order]).tolist()


def test_complete_graphs_are_repeated_too() -> None:
    made = [molecule("CH3OH"), molecule("H2O")]
    found, _ = repeat_structures(build_graph(made, torch.inf), torch.tensor([1, 0, 1]))
    assert_equal(found, build_graph([made[1], made[0], made[1]], torch.inf))


def test_inputs_of_the_nodes_go_with_them() -> None:
    graph = with_inputs(build_graph(structures(), 4.0))
    found, node = repeat_structures(graph, torch.tensor([1, 1, 3]))
    assert torch.equal(found.node_scalars, graph.node_scalars[node])
    assert torch.equal(found.node_vectors, graph.node_vectors[node])
    assert repeat_structures(build_graph(structures(), 4.0), torch.tensor([0]))[0].node_scalars is None


def test_edge_vectors_of_the_copies_are_those_of_the_originals() -> None:
    """Periodic images included; a wrong cell or offset of any copy would show."""
    graph = build_graph(structures(), 5.0)
    found, _ = repeat_structures(graph, torch.tensor([3, 1, 0, 1]))
    edges = torch.cat([torch.arange(*graph.edge_ptr[graph.ptr[k : k + 2]].tolist()) for k in (3, 1, 0, 1)])
    torch.testing.assert_close(edge_vectors(found), edge_vectors(graph)[edges], rtol=0, atol=1e-12)


def test_gradients_flow_to_positions_cells_and_inputs() -> None:
    graph = with_inputs(build_graph(structures(), 4.0))
    leaves = {name: getattr(graph, name).clone().requires_grad_() for name in ("pos", "cell", "node_vectors")}
    order = torch.tensor([0, 1, 1, 1])
    found, node = repeat_structures(graph.replace(**leaves), order)
    total = found.pos.sum() + 2 * found.cell.sum() + 3 * found.node_vectors.sum()
    gradients = torch.autograd.grad(total, list(leaves.values()))
    times = torch.bincount(node, minlength=graph.num_nodes).double()
    assert torch.equal(gradients[0], times[:, None].expand(-1, 3))
    assert torch.equal(gradients[1], 2 * torch.bincount(order, minlength=4).double()[:, None, None].expand(-1, 3, 3))
    assert torch.equal(gradients[2], 3 * times[:, None, None].expand(-1, 1, 3))


def test_no_structures_give_an_empty_batch() -> None:
    found, node = repeat_structures(build_graph(structures(), 4.0), torch.tensor([], dtype=torch.int64))
    assert (found.num_graphs, found.num_nodes, found.num_edges, len(node)) == (0, 0, 0, 0)
