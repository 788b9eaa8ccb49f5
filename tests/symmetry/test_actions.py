"""Actions on graphs and targets: each kind against the formula that defines it, and the graph still a valid one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from ase import Atoms

from geomol.checks import disordered_crystals, disordered_molecules
from geomol.errors import ConfigError, InputError
from geomol.graph import Graph, build_graph, edge_vectors
from geomol.models import Features
from geomol.ops import segment_sum
from geomol.symmetry.actions import (
    TARGETS,
    Kind,
    about,
    act_on_features,
    act_on_graph,
    act_on_target,
    flow,
    kind_of,
    tangent_of_target,
)
from geomol.symmetry.groups import (
    GROUPS,
    Element,
    identity,
    random_images,
    random_permutation,
    rotation_generators,
    scale_generator,
    translation_generators,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


@pytest.fixture
def molecules() -> Graph:
    graph = build_graph(disordered_molecules(3), 4.0)
    return graph.replace(node_vectors=draw(graph.num_nodes, 2, 3), node_scalars=draw(graph.num_nodes, 1))


@pytest.fixture
def crystals() -> Graph:
    return build_graph(disordered_crystals(4), 4.0)


@pytest.fixture
def element(molecules) -> Element:
    """A motion of its own for each structure, reflections among them, and a renumbering."""
    motion = GROUPS["E(3)"].sample(molecules.num_graphs, generator=rng(1))
    assert float(torch.linalg.det(motion.rotation).min()) < 0
    return Element(motion.rotation, motion.translation, random_permutation(molecules, generator=rng(2)))


def edges_of(graph: Graph) -> set[tuple[object, ...]]:
    """Every edge by the elements and, rounded, the length and receiver-to-sender vector that it has."""
    vec = edge_vectors(graph)
    return {
        (int(s), int(d), tuple((v * 1e6).round().int().tolist()))
        for s, d, v in zip(graph.src, graph.dst, vec, strict=True)
    }


def test_edge_vectors_and_cells_turn_with_the_structure(crystals):
    motion = GROUPS["E(3)"].sample(crystals.num_graphs, generator=rng(1))
    moved = act_on_graph(motion, crystals)
    turn = motion.rotation[crystals.batch[crystals.dst]]
    expected = torch.einsum("eij,ej->ei", turn, edge_vectors(crystals))
    assert torch.allclose(edge_vectors(moved), expected, atol=1e-12)
    assert torch.allclose(torch.linalg.det(moved.cell).abs(), torch.linalg.det(crystals.cell).abs())
    rebuilt = build_graph([frame_of(moved, k) for k in range(moved.num_graphs)], 4.0)
    assert edges_of(rebuilt) == edges_of(moved)


def frame_of(graph: Graph, k: int) -> Atoms:
    part = slice(int(graph.ptr[k]), int(graph.ptr[k + 1]))
    numbers, pos = graph.numbers[part].numpy(), graph.pos[part].numpy()
    return Atoms(numbers, pos, cell=graph.cell[k].numpy(), pbc=graph.pbc[k].numpy())


def test_a_renumbered_graph_is_the_graph_of_the_renumbered_structure(molecules, crystals):
    for graph in (molecules, crystals):
        order = random_permutation(graph, generator=rng(3))
        moved = act_on_graph(dataclasses.replace(identity(), permutation=order), graph)
        assert torch.equal(moved.pos, graph.pos[order])
        assert torch.equal(moved.numbers, graph.numbers[order])
        assert bool((moved.dst.diff() >= 0).all()), "still sorted by receiver"
        counts = torch.bincount(moved.dst, minlength=moved.num_nodes)
        assert torch.equal(moved.edge_ptr.diff(), counts)
        assert torch.equal(torch.bincount(moved.src, minlength=moved.num_nodes), moved.send_ptr.diff())
        rebuilt = build_graph([frame_of(moved, k) for k in range(moved.num_graphs)], 4.0)
        assert edges_of(rebuilt) == edges_of(moved)


def test_other_images_of_atoms_leave_every_edge_vector_as_it_was(crystals):
    images = random_images(crystals, generator=rng(4))
    moved = act_on_graph(dataclasses.replace(identity(), images=images), crystals)
    assert float((moved.pos - crystals.pos).abs().max()) > 1.0
    assert torch.allclose(edge_vectors(moved), edge_vectors(crystals), atol=1e-12)


def test_vectors_turn_and_scalars_stay(molecules, element):
    moved = act_on_graph(element, molecules)
    turn = element.rotation[molecules.batch]
    expected = torch.einsum("nij,nvj->nvi", turn, molecules.node_vectors)[element.permutation]
    assert torch.allclose(moved.node_vectors, expected)
    assert torch.equal(moved.node_scalars, molecules.node_scalars[element.permutation])


def test_what_is_no_renumbering_and_images_without_periodicity_are_refused(molecules):
    order = torch.arange(molecules.num_nodes).flip(0)
    with pytest.raises(InputError, match="renumbering"):
        act_on_graph(dataclasses.replace(identity(), permutation=order), molecules)
    images = torch.ones(molecules.num_nodes, 3, dtype=torch.int64)
    with pytest.raises(InputError, match="not periodic"):
        act_on_graph(dataclasses.replace(identity(), images=images), molecules)
    with pytest.raises(ConfigError, match='did you mean "forces"'):
        kind_of("force")


def physical_targets(graph: Graph) -> dict[str, torch.Tensor]:
    """Quantities that a structure has, computed from it by their definitions: the witness of `act_on_target`."""
    vec = edge_vectors(graph)
    pull = vec * torch.exp(-vec.square().sum(1))[:, None]
    forces = torch.zeros_like(graph.pos).index_add(0, graph.dst, pull)
    charges = graph.numbers.double() - 3.0
    neutral = charges - (segment_sum(charges, graph.ptr) / graph.ptr.diff())[graph.batch]
    return {
        "energy": segment_sum(torch.exp(-vec.norm(dim=1)), graph.edge_ptr[graph.ptr]),
        "charges": neutral,
        "forces": forces,
        "velocities": graph.node_vectors[:, 0],
        "displacement": graph.node_vectors[:, 1],
        "positions": graph.pos + 0.1 * forces,
        "dipole": segment_sum(neutral[:, None] * graph.pos, graph.ptr),
        "stress": segment_sum(vec[:, :, None] * pull[:, None, :], graph.edge_ptr[graph.ptr]),
        "torque": segment_sum(torch.linalg.cross(forces, graph.node_vectors[:, 0]), graph.ptr),
        "vectors": graph.node_vectors,
    }


@pytest.mark.parametrize(
    "name",
    ["energy", "charges", "forces", "velocities", "displacement", "positions", "dipole", "stress", "torque", "vectors"],
)
def test_targets_of_the_moved_structure_are_the_moved_targets(name, molecules, element):
    before, after = physical_targets(molecules)[name], physical_targets(act_on_graph(element, molecules))[name]
    assert float(before.abs().max()) > 1e-3
    assert torch.allclose(act_on_target(TARGETS[name], before, element, molecules), after, atol=1e-12)
    moved = act_on_graph(element, molecules)
    assert torch.allclose(act_on_target(TARGETS[name], after, element.inverse(), moved), before, atol=1e-12)


@pytest.mark.parametrize(("name", "wrong"), [("torque", "vector"), ("positions", "vector"), ("forces", "point")])
def test_a_target_of_the_wrong_kind_is_told_apart(name, wrong, molecules, element):
    """The control: what would pass here if the kinds did the same."""
    before, after = physical_targets(molecules)[name], physical_targets(act_on_graph(element, molecules))[name]
    kind = dataclasses.replace(TARGETS[name], form=wrong)
    assert not torch.allclose(act_on_target(kind, before, element, molecules), after, atol=1e-3)


def test_a_triple_product_is_a_pseudoscalar(molecules, element):
    def triple(graph: Graph) -> torch.Tensor:
        v = graph.node_vectors
        return (torch.linalg.cross(v[:, 0], v[:, 1]) * physical_targets(graph)["forces"]).sum(1)

    kind = Kind("pseudoscalar", "node")
    before, after = triple(molecules), triple(act_on_graph(element, molecules))
    assert torch.allclose(act_on_target(kind, before, element, molecules), after, atol=1e-12)


def test_positions_follow_their_images(crystals):
    images = random_images(crystals, generator=rng(5))
    element = dataclasses.replace(GROUPS["SE(3)"].sample(crystals.num_graphs, generator=rng(6)), images=images)
    moved = act_on_graph(element, crystals)
    assert torch.allclose(act_on_target(TARGETS["positions"], crystals.pos, element, crystals), moved.pos, atol=1e-12)


def test_features_keep_their_scalars_and_turn_their_vectors(molecules, element):
    features = Features(draw(molecules.num_nodes, 4), draw(molecules.num_nodes, 2, 3))
    out = act_on_features(features, element, molecules)
    assert torch.equal(out.scalars, features.scalars[element.permutation])
    assert torch.allclose(out.vectors.norm(dim=-1), features.vectors.norm(dim=-1)[element.permutation])
    assert not torch.allclose(out.vectors, features.vectors[element.permutation])
    assert act_on_features(Features(features.scalars), element, molecules).vectors is None


def test_structures_turn_about_their_own_centres(molecules):
    centre = segment_sum(molecules.pos, molecules.ptr) / molecules.ptr.diff()[:, None]
    turn = GROUPS["SO(3)"].sample(1, generator=rng(8)).rotation[0]
    moved = act_on_graph(about(turn, centre), molecules)
    assert torch.allclose(segment_sum(moved.pos, moved.ptr) / moved.ptr.diff()[:, None], centre, atol=1e-12)


@pytest.mark.parametrize("form", ["scalar", "pseudoscalar", "vector", "pseudovector", "point", "tensor"])
@pytest.mark.parametrize("per", ["node", "structure"])
def test_tangents_are_the_derivatives_of_finite_actions(form, per, molecules):
    kind, step = Kind(form, per), 1e-4
    rows = molecules.num_nodes if per == "node" else molecules.num_graphs
    value = draw(rows, *((3, 3) if form == "tensor" else () if "scalar" in form else (3,)), seed=9)
    centre = draw(molecules.num_graphs, 3, seed=10)
    for generator in (*translation_generators(), *rotation_generators()):
        ends = []
        for t in (step, -step):
            g = generator.element(t)
            element = about(g.rotation, centre)
            element = dataclasses.replace(element, translation=element.translation + g.translation)
            ends.append(act_on_target(kind, value, element, molecules))
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert torch.allclose(tangent_of_target(kind, value, generator, molecules, centre), numeric, atol=1e-7)


def test_the_flow_starts_along_the_motion(crystals):
    centre = draw(crystals.num_graphs, 3, seed=11)
    step = 1e-6
    for generator in rotation_generators():
        ahead = flow(generator, crystals, centre, torch.tensor(step, dtype=torch.float64))
        moved = act_on_graph(about(generator.element(step).rotation, centre), crystals)
        assert torch.allclose(ahead.pos, moved.pos, atol=1e-10)
        assert torch.allclose(ahead.cell, moved.cell, atol=1e-10)
    grown = flow(scale_generator(), crystals, centre, torch.tensor(0.1, dtype=torch.float64))
    assert torch.allclose(edge_vectors(grown), 1.1 * edge_vectors(crystals))
