"""Structures seen from poses, and the average of what is seen: turned there and back, weighted, differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph, edge_vectors
from geomol.models import MPNN, Features, Symmetry
from geomol.symmetry.poses import Poses, Symmetriser, average_over_poses, centroids, pose_graph

STRUCTURE = torch.tensor([0, 0, 1, 1, 1, 2])


class Recorder(nn.Module):
    """Gives back what it sees: positions, velocities and a constant as vectors, and the place of the pose."""

    cutoff, symmetry = float("inf"), Symmetry("1", exact=True, smooth=True)
    config: dict[str, object] = {}  # noqa: RUF012

    def forward(self, graph: Graph) -> Features:
        vectors = [graph.pos, torch.ones_like(graph.pos)]
        if graph.node_vectors is not None:
            vectors.append(graph.node_vectors[:, 0])
        return Features(graph.batch[:, None].to(graph.pos.dtype), torch.stack(vectors, dim=1))


def structures() -> list[Atoms]:
    made = [molecule("CH3OH"), bulk("NaCl", "rocksalt", a=5.64), molecule("H2O")]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed)
        atoms.positions += 3.0 * seed
    return made


def graph_of(cutoff: float = 4.0) -> Graph:
    graph = build_graph(structures(), cutoff)
    velocity = torch.randn(graph.num_nodes, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return graph.replace(node_vectors=velocity)


def poses_of(graph: Graph, *, stretch: float = 0.0) -> Poses:
    """Two, three and one poses for three structures; with `stretch`, matrices that are no rotations."""
    random = torch.Generator().manual_seed(0)
    matrix = random_rotations(len(STRUCTURE), generator=random)
    matrix = matrix + stretch * torch.randn(len(STRUCTURE), 3, 3, generator=random, dtype=torch.float64)
    back = torch.linalg.inv(matrix) if stretch else None
    weight = torch.tensor([0.3, 0.7, 0.5, 0.4, 0.1, 1.0], dtype=torch.float64)
    return Poses(matrix, weight, STRUCTURE, centroids(graph), back)


def seen_by_hand(pose: int, poses: Poses) -> Atoms:
    """One structure from one pose, through ASE: gᵀ(x − t), with the cell."""
    k = int(STRUCTURE[pose])
    atoms, turn = structures()[k], poses.rotation[pose].numpy()
    atoms.positions = (atoms.positions - poses.origin[k].numpy()) @ turn
    atoms.set_cell(atoms.cell.array @ turn, scale_atoms=False)
    return atoms


def test_structures_are_seen_as_when_turned_and_built_anew() -> None:
    graph = graph_of()
    poses = poses_of(graph)
    seen, node = pose_graph(graph, poses)
    anew = build_graph([seen_by_hand(p, poses) for p in range(len(STRUCTURE))], graph.cutoff)
    torch.testing.assert_close(seen.pos, anew.pos, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.cell, anew.cell, rtol=0, atol=1e-12)
    assert torch.equal(seen.edge_index, anew.edge_index)
    assert torch.equal(seen.cell_shift, anew.cell_shift)
    torch.testing.assert_close(edge_vectors(seen), edge_vectors(anew), rtol=0, atol=1e-12)
    assert torch.equal(seen.numbers, graph.numbers[node])


def test_velocities_turn_with_the_structure_and_are_not_shifted() -> None:
    graph = graph_of()
    poses = poses_of(graph)
    seen, node = pose_graph(graph, poses)
    for row in range(0, seen.num_nodes, 3):
        expected = graph.node_vectors[node[row], 0] @ poses.rotation[seen.batch[row]]
        torch.testing.assert_close(seen.node_vectors[row, 0], expected)


@pytest.mark.parametrize("stretch", [0.0, 0.3])
def test_vectors_come_home_and_are_averaged(stretch: float) -> None:
    """Positions and velocities come back as they were (from the centroid); a constant of the pose does not."""
    graph = graph_of()
    poses = poses_of(graph, stretch=stretch)
    out = average_over_poses(Recorder(), graph, poses)
    torch.testing.assert_close(out.vectors[:, 0], graph.pos - poses.origin[graph.batch])
    torch.testing.assert_close(out.vectors[:, 2], graph.node_vectors[:, 0])
    home = torch.linalg.inv(poses.rotation)
    constant = torch.stack(
        [sum(poses.weight[p] * home[p].sum(0) for p in range(6) if STRUCTURE[p] == k) for k in range(3)]
    )
    torch.testing.assert_close(out.vectors[:, 1], constant[graph.batch])


def test_without_a_way_back_stretched_vectors_do_not_come_home() -> None:
    """The control: the transposed matrix is the inverse of rotations only."""
    graph = graph_of()
    poses = poses_of(graph, stretch=0.3)
    wrong = Poses(poses.rotation, poses.weight, poses.structure, poses.origin)
    out = average_over_poses(Recorder(), graph, wrong)
    assert float((out.vectors[:, 2] - graph.node_vectors[:, 0]).abs().max()) > 0.1


def test_scalars_are_averaged_with_the_weights_of_the_poses() -> None:
    graph = graph_of()
    poses = poses_of(graph)
    found = average_over_poses(Recorder(), graph, poses).scalars[:, 0]
    # the recorder says which pose it sees: 0 and 1, 2 to 4, and 5
    expected = torch.tensor([0.7, 2 * 0.5 + 3 * 0.4 + 4 * 0.1, 5.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected[graph.batch])


def test_an_average_is_that_of_single_calls() -> None:
    torch.manual_seed(0)
    graph = graph_of()
    model = MPNN(elements=[1, 6, 8, 11, 17], in_vectors=1, out_vectors=1, channels=8, num_layers=2, cutoff=4.0).double()
    poses = poses_of(graph)
    out = average_over_poses(model, graph, poses)
    for k, rows in enumerate(graph.ptr.tolist()[:-1]):
        mine = graph.batch == k
        scalars: Tensor | float = 0.0
        vectors: Tensor | float = 0.0
        for p in (k == STRUCTURE).nonzero()[:, 0].tolist():
            alone = build_graph(seen_by_hand(p, poses), graph.cutoff)
            turned = graph.node_vectors[mine] @ poses.rotation[p]
            one = model(alone.replace(node_vectors=turned))
            scalars = scalars + poses.weight[p] * one.scalars
            vectors = vectors + poses.weight[p] * one.vectors @ poses.rotation[p].T
        torch.testing.assert_close(out.scalars[mine], scalars)
        torch.testing.assert_close(out.vectors[mine], vectors)
        assert int(mine.nonzero()[0]) == rows


def test_gradients_pass_through_positions_rotations_weights_and_origins() -> None:
    torch.manual_seed(0)
    graph = graph_of()
    model = MPNN(elements=[1, 6, 8, 11, 17], in_vectors=1, channels=4, num_layers=1, cutoff=4.0).double()
    start = poses_of(graph)

    def energy(pos: Tensor, rotation: Tensor, weight: Tensor, velocity: Tensor) -> Tensor:
        poses = Poses(rotation, weight, STRUCTURE, centroids(graph.replace(pos=pos)))
        total: Tensor = average_over_poses(model, graph.replace(pos=pos, node_vectors=velocity), poses).scalars.sum()
        return total

    inputs = [graph.pos, start.rotation, start.weight, graph.node_vectors]
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(energy, leaves, fast_mode=True)
    assert all(float(g.abs().max()) > 1e-6 for g in torch.autograd.grad(energy(*leaves), leaves))


def test_float32_models_see_poses_of_float64_positions() -> None:
    """Formed in float64 near the origin: a structure at 10⁶ Å loses nothing."""
    torch.manual_seed(0)
    model = MPNN(elements=[1, 6, 8], channels=8, num_layers=2, cutoff=4.0)
    graph = build_graph(molecule("CH3OH"), 4.0)
    far = graph.replace(pos=graph.pos + 1e6)
    turn = random_rotations(1, generator=torch.Generator().manual_seed(0))
    one = torch.ones(1, dtype=torch.float64)
    here, there = (
        average_over_poses(model, g, Poses(turn, one, torch.tensor([0]), centroids(g))).scalars for g in (graph, far)
    )
    assert here.dtype == torch.float32
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-6)


def test_centroids_are_means_over_atoms() -> None:
    expected = np.stack([atoms.positions.mean(0) for atoms in structures()])
    torch.testing.assert_close(centroids(graph_of()), torch.tensor(expected))


def test_random_numbers_follow_from_seed_and_draw_and_in_evaluation_from_the_seed() -> None:
    class Still(Symmetriser):
        def poses(self, graph: Graph) -> Poses:
            raise NotImplementedError

    def numbers(model: Symmetriser, draw: int) -> list[float]:
        model.reseed(draw)
        return torch.rand(3, generator=model.rng()).tolist()

    model = Still(Recorder()).train()
    first = numbers(model, 1)
    assert numbers(model, 2) != first
    assert numbers(model, 1) == first
    model.eval()
    assert numbers(model, 1) == numbers(model, 2)
    model.seed = 1
    assert numbers(model.train(), 1) != first
