"""Surplus room in a graph changes nothing for the atoms."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomol.compiled import Form, pad_graph, trace_step
from geomol.compiled.form import sample_graphs
from geomol.compiled.padding import GHOSTS, unpad
from geomol.compiled.verify import plain_step
from geomol.errors import CapacityError
from geomol.graph import Graph, build_graph
from geomol.models import EGNN, Ponita
from geomol.potential import Potential


def potential(name: str) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"elements": [8, 1, 29], "channels": 4, "num_layers": 2, "cutoff": 4.0, "num_radial": 2}
        backbone = EGNN(**small) if name == "egnn" else Ponita(**small)
    return Potential(backbone, elements=[8, 1, 29], e0=[-3.0, -1.0, -2.0]).double()


@pytest.mark.parametrize("name", ["egnn", "ponita"])
@pytest.mark.parametrize("atoms", [molecule("H2O"), Atoms("H"), bulk("Cu", cubic=True)], ids=["H2O", "H", "Cu"])
@pytest.mark.parametrize("surplus", [0, 1, 13, 1500])
def test_padded_structures_have_the_results_of_the_structure(name: str, atoms: Atoms, surplus: int) -> None:
    model = potential(name)
    graph = build_graph(atoms, model.cutoff)
    form = Form(periodic=bool(atoms.pbc.any()), single=True, stress=bool(atoms.pbc.any()), training=False)
    step = plain_step(model, form)
    padded = pad_graph(graph, graph.num_edges + surplus)
    assert padded.num_edges == graph.num_edges + surplus
    assert padded.num_nodes == graph.num_nodes + GHOSTS * (1 + padded.num_edges // 512)
    for got, expected in zip(unpad(list(step(padded)), graph.num_nodes), step(graph), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("surplus", [7, 1501])
def test_the_derived_orders_of_a_padded_graph_are_those_it_would_derive(surplus: int) -> None:
    graph = build_graph(molecule("CH3CH2OH"), 3.0)
    lazy = pad_graph(graph, graph.num_edges + surplus)
    assert graph.send_perm.numel() == graph.num_edges
    assert graph.send_ptr.numel() == graph.num_nodes + 1
    given = pad_graph(graph, graph.num_edges + surplus)
    assert "send_perm" in given.__dict__
    assert "send_perm" not in lazy.__dict__
    assert torch.equal(given.send_perm, lazy.send_perm)
    assert torch.equal(given.send_ptr, lazy.send_ptr)
    counts = torch.bincount(lazy.dst, minlength=lazy.num_nodes)
    assert torch.equal(lazy.edge_ptr.diff(), counts)
    assert int(counts.max()) <= 512  # no atom has all that is too much


def test_pairs_that_do_not_fit_are_never_dropped() -> None:
    graph = build_graph(molecule("H2O"), 3.0)
    with pytest.raises(CapacityError, match="more pairs than there is room for, expected at most 5, got 6"):
        pad_graph(graph, 5)


def test_a_traced_step_reads_a_padded_graph_in_buffers_of_one_size() -> None:
    """What a CUDA graph does, without the device: the same tensors, refilled, give each structure's results."""
    model = potential("ponita")
    form = Form(periodic=False, single=True, stress=False, training=False)
    traced = trace_step(model, sample_graphs(model, form)[0], form)
    held: list[torch.Tensor] | None = None
    for seed in range(3):
        atoms = molecule("H2O")
        atoms.rattle(0.2, seed=seed)
        graph = build_graph(atoms, model.cutoff)
        values = traced.arguments(pad_graph(graph, 20))
        if held is None:
            held = [value.clone() for value in values]
        for buffer, value in zip(held, values, strict=True):
            buffer.copy_(value)
        got = unpad(list(traced.module(*held)), graph.num_nodes)
        expected = model(graph)
        torch.testing.assert_close(got[0], expected.energy, atol=1e-10, rtol=0)
        torch.testing.assert_close(got[2], expected.forces, atol=1e-10, rtol=0)


def graph_is_sorted(graph: Graph) -> bool:
    return bool((graph.dst.diff() >= 0).all())


def test_padded_pairs_stay_sorted_by_receiver() -> None:
    assert graph_is_sorted(pad_graph(build_graph(molecule("CH3CH2OH"), 4.0), 90))
