"""Canonicalisation by a learned pose: exact where it says so, about which origin, and which settings are refused."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from symmetry.canonical_case import ELEMENTS, POSES, atoms, backbone, error, gen, graph_of, make, moved, sparse_graph_of

from geomol.errors import ConfigError, ModelDomainError
from geomol.geometry import random_rotations
from geomol.graph import Graph
from geomol.symmetry.canonical import Canonicalised
from geomol.symmetry.pose_networks import VNDeepSets, build_pose_network
from geomol.symmetry.poses import Poses


@pytest.mark.parametrize("pose", POSES)
def test_predictions_turn_with_the_structure_to_rounding(pose: str) -> None:
    model, graph = make(pose), sparse_graph_of(atoms(), atoms(1, "CH3OH"))
    shift = torch.tensor([3.0, -1.0, 2.0]).double()
    for turn in random_rotations(4, generator=gen()):
        assert error(model, graph, turn, shift) < 1e-8
    assert error(model.backbone, graph, turn) > 1e-2  # the control: the backbone alone has no such symmetry


@pytest.mark.parametrize("pose", [name for name in POSES if name != "vn_small"])
def test_mirror_images_are_followed_where_the_group_holds_them(pose: str) -> None:
    graph = sparse_graph_of(atoms(), atoms(1))
    mirror = -random_rotations(1, generator=gen())[0]
    assert error(make(pose), graph, mirror) < 1e-10
    assert error(make(pose, group="SE(3)"), graph, mirror) > 1e-3


def test_a_bias_on_the_vectors_of_the_pose_network_breaks_the_symmetry() -> None:
    model, graph = make("vn_deep_sets"), sparse_graph_of(atoms())
    turn = random_rotations(1, generator=gen())[0]
    assert error(model, graph, turn) < 1e-10
    model.pose.readout.register_forward_hook(lambda module, inputs, out: out + 0.3)
    assert error(model, graph, turn) > 1e-3


def test_dropout_of_components_breaks_the_symmetry_in_training_only() -> None:
    graph, turn = sparse_graph_of(atoms()), random_rotations(1, generator=gen())[0]
    inner = backbone()
    model = Canonicalised(inner, pose=VNDeepSets(features="p", dropout=0.5)).double()
    assert error(model.train(), graph, turn) > 1e-3
    assert error(model.eval(), graph, turn) < 1e-10


def test_poses_are_orthogonal_and_of_both_hands_for_reflections_only() -> None:
    graph = graph_of(*(atoms(seed) for seed in range(24)))
    eye = torch.eye(3, dtype=torch.float64)
    both, proper = make().poses(graph).rotation, make(group="SE(3)").poses(graph).rotation
    for rotation in (both, proper):
        assert (rotation.mT @ rotation - eye).abs().max() < 1e-6
    mirrored = make().poses(moved(graph, -eye)).rotation
    torch.testing.assert_close(torch.linalg.det(mirrored), -torch.linalg.det(both), atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.linalg.det(proper), torch.ones(24).double(), atol=1e-9, rtol=0)


def test_graphs_in_a_batch_do_not_see_each_other() -> None:
    for pose in POSES:
        model = make(pose)
        frames = [atoms(), atoms(1, "CH3OH"), Atoms("O", [[9.0, 1.0, 2.0]])]
        batch = model(sparse_graph_of(*frames))
        singles = [model(sparse_graph_of(frame)) for frame in frames]
        torch.testing.assert_close(batch.scalars, torch.cat([s.scalars for s in singles]), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(batch.vectors, torch.cat([s.vectors for s in singles]), atol=1e-12, rtol=1e-12)


def test_learned_origin_moves_with_the_structure() -> None:
    torch.manual_seed(0)
    absolute = backbone(coordinates="absolute")
    model = Canonicalised(absolute, pose=POSES["egnn_vectors"], origin="learned").double().eval()
    graph, shift = graph_of(atoms()), torch.tensor([3.0, -1.0, 2.0]).double()
    turn = random_rotations(1, generator=gen())[0]
    assert error(model, graph, turn, shift) < 1e-10
    origin = model.poses(graph).origin
    torch.testing.assert_close(model.poses(moved(graph, turn, shift)).origin, origin @ turn.T + shift)
    assert (origin - graph.pos.mean(0)).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="learned"):
        make("vn_dgcnn", origin="learned")


def test_groups_without_translations_turn_about_the_centroid() -> None:
    model = Canonicalised(backbone(coordinates="absolute"), pose=POSES["egnn_vectors"], group="O(3)").double()
    graph = graph_of(atoms())
    turn = -random_rotations(1, generator=gen())[0]
    centre = graph.pos.mean(0)
    assert error(model, graph, turn, centre - turn @ centre) < 1e-10
    assert error(model, graph, turn) > 1e-3


def test_periodic_structures_have_poses_from_relative_positions_only() -> None:
    frame = bulk("Si", cubic=True)
    frame.rattle(0.1, seed=0)
    graph = graph_of(frame)
    assert error(make(), graph, -random_rotations(1, generator=gen())[0]) < 1e-9
    with pytest.raises(ModelDomainError, match="periodic"):
        make("vn_deep_sets")(graph)


def test_single_precision_weights_keep_the_symmetry_to_their_rounding() -> None:
    model, graph = make().float(), graph_of(atoms())
    turn = random_rotations(1, generator=gen())[0]
    here, there = model(graph), model(moved(graph, turn))
    assert here.scalars.dtype == torch.float32
    torch.testing.assert_close(there.scalars, here.scalars, atol=1e-4, rtol=1e-4)


def test_a_configuration_makes_an_equal_model() -> None:
    for pose in POSES:
        model = make(pose, prior_weight=1.0)
        twin = Canonicalised(backbone(), **model.config).double().eval()  # type: ignore[arg-type]
        twin.load_state_dict(model.state_dict())
        graph = sparse_graph_of(atoms())
        assert torch.equal(twin(graph).scalars, model(graph).scalars)
        assert twin.config == model.config


def test_inputs_of_the_pose_network_are_those_of_the_backbone_where_not_given() -> None:
    config = build_pose_network({"name": "egnn_vectors", "channels": 4}, backbone()).config
    assert config["elements"] == ELEMENTS
    assert config["cutoff"] == 4.0


def test_settings_that_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="reflections"):
        make("vn_small", group="E(3)")
    with pytest.raises(ConfigError, match="reflections"):
        make(third="cross")
    with pytest.raises(ConfigError, match="no poses for group"):
        make(group="T(3)")
    with pytest.raises(ConfigError, match="did you mean"):
        Canonicalised(backbone(), pose={"name": "egnn_vector"})
    with pytest.raises(ConfigError, match="arguments of pose network"):
        Canonicalised(backbone(), pose={"name": "egnn_vectors", "depth": 3})
    with pytest.raises(ConfigError, match="node_vectors"):
        Canonicalised(backbone(), pose={"name": "vn_deep_sets"})(graph_of(atoms()))
    with pytest.raises(ConfigError, match="prior_weight"):
        make(prior_weight=-1.0)


def test_a_pose_from_somewhere_else_is_not_enough() -> None:
    """The control of the equivariance tests: a wrapper whose pose does not turn with the structure."""

    class FixedPose(Canonicalised):
        def poses(self, graph: Graph) -> Poses:
            poses = super().poses(graph)
            return Poses(torch.eye(3).double().expand_as(poses.rotation), poses.weight, poses.structure, poses.origin)

    model = FixedPose(backbone(), pose=POSES["egnn_vectors"]).double()
    assert error(model, graph_of(atoms()), random_rotations(1, generator=gen())[0]) > 1e-2
