"""The search for discontinuities: a jump is told from a slope, however steep, and from a kink."""

from __future__ import annotations

import math

import pytest
import torch
from symmetry.planted import KINDS, model_of, pairs, reads_bond_z, sorts_axes
from torch import Tensor

from geomol.checks import disordered_crystals, disordered_molecules
from geomol.graph import Graph, build_graph, edge_vectors
from geomol.symmetry.audit import equal_axes_path, rotation_path, scan
from geomol.symmetry.audit.jumps import Path

PLACE = math.pi / 10  # at no division of the path
ENERGY = {"energy": KINDS["energy"]}


def path_of(function) -> Path:
    return Path("a line", lambda t: {"label": function(t)[:, None]})


CONTINUOUS = {
    "a constant": lambda t: 0 * t + 5,
    "a wave": lambda t: torch.sin(20 * t),
    "a steep slope": lambda t: torch.tanh((t - PLACE) / 1e-5),
    "a kink": lambda t: (t - 0.62).abs(),
    "a cusp": lambda t: (t - PLACE).abs().sqrt(),
    "a large slope": lambda t: 1e6 * t,
}


@pytest.mark.parametrize("name", list(CONTINUOUS))
def test_what_is_continuous_has_no_jump(name):
    (found,) = scan(path_of(CONTINUOUS[name]))
    assert found.jump == 0.0


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("background", ["a constant", "a wave", "a kink"])
def test_a_jump_is_found_with_its_size_and_place(size, background):
    (found,) = scan(path_of(lambda t: CONTINUOUS[background](t) + size * (t > PLACE)))
    if size == 1e-6 and background != "a constant":
        return  # below the bend of the background within an interval: beyond what these resolve
    assert found.jump == pytest.approx(size, rel=1e-2)
    assert found.place == pytest.approx(PLACE, abs=1e-6)


def test_changes_below_the_noise_are_none():
    (found,) = scan(path_of(lambda t: 5 + 1e-8 * (t > PLACE)), noise=1e-6)
    assert found.jump == 0.0


@pytest.fixture(scope="module")
def molecule() -> Graph:
    return build_graph(disordered_molecules(1, seed=1), 4.0)


def test_a_frame_of_principal_axes_jumps_where_two_are_equal_and_nowhere_else(molecule):
    def model(graph: Graph) -> dict[str, Tensor]:
        return {"energy": model_of(sorts_axes)(graph)["energy"]}

    (at_equal,) = scan(equal_axes_path(model, molecule, ENERGY))
    assert at_equal.jump > 1e-3
    assert at_equal.place == pytest.approx(0.5, abs=1e-6)
    for exact in (pairs, reads_bond_z):
        for found in scan(equal_axes_path(model_of(exact), molecule, KINDS)):
            assert found.jump == 0.0


def test_an_equivariant_model_is_constant_along_a_rotation(molecule):
    axis = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    for found in scan(rotation_path(model_of(pairs), molecule, KINDS, axis)):
        assert found.jump == 0.0
        assert float(found.curve.max()) < 1e-12
    for found in scan(rotation_path(model_of(reads_bond_z), molecule, KINDS, axis)):
        assert found.jump == 0.0
        assert float(found.curve.max()) > 1e-2


def test_a_step_in_the_orientation_is_found_along_a_rotation(molecule):
    def steps(graph: Graph) -> Tensor:
        return pairs(graph) + 0.01 * (edge_vectors(graph)[graph.edge_ptr[:-1], 2] > 0).double()

    axis = torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64)

    def model(graph: Graph) -> dict[str, Tensor]:
        return {"energy": model_of(steps)(graph)["energy"]}

    (found,) = scan(rotation_path(model, molecule, ENERGY, axis))
    assert found.jump == pytest.approx(0.01, rel=1e-3)


def test_a_jump_at_the_cutoff_is_told_from_one_of_the_frame(molecule):
    def abrupt(graph: Graph) -> dict[str, Tensor]:
        length = edge_vectors(graph).norm(dim=1)
        per_node = torch.zeros(graph.num_nodes, dtype=length.dtype).index_add(0, graph.dst, torch.exp(-length / 4))
        return {"energy": torch.zeros(graph.num_graphs, dtype=length.dtype).index_add(0, graph.batch, per_node)}

    crossings = 0
    for cutoff in (1.8, 2.2, 2.6, 3.0):
        path = equal_axes_path(abrupt, build_graph(disordered_molecules(1, seed=1), cutoff), ENERGY)
        pairs_at_ends = path.num_pairs(torch.tensor([0.0, 1.0], dtype=torch.float64))
        (found,) = scan(path)
        assert found.jump == 0.0
        assert (found.cutoff_jump > 1e-3) == bool(pairs_at_ends[0] != pairs_at_ends[1])
        crossings += found.cutoff_jump > 1e-3
    assert crossings > 0


def test_paths_that_do_not_exist_are_none():
    crystal = build_graph(disordered_crystals(1), 3.0)
    assert equal_axes_path(model_of(pairs), crystal, KINDS) is None
    line = build_graph(disordered_molecules(8)[7], 4.0)
    flat = line.replace(pos=line.pos * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    assert equal_axes_path(model_of(pairs), flat, KINDS) is None
