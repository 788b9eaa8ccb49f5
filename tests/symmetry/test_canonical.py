"""Canonicalisation by a learned pose: exact where it says so, finite everywhere, and able to adapt a frozen model."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

from geomol.errors import ConfigError, GeomolWarning, ModelDomainError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models import Features, Symmetry
from geomol.models.mpnn import MPNN
from geomol.potential import Potential
from geomol.symmetry.canonical import Canonicalised, prior_loss
from geomol.symmetry.gram_schmidt import gram_schmidt
from geomol.symmetry.pose_networks import VNDeepSets, build_pose_network
from geomol.symmetry.poses import Poses

ELEMENTS = [1, 6, 8, 14]
POSES: dict[str, dict[str, Any]] = {
    "egnn_vectors": {"name": "egnn_vectors", "channels": 8},
    "vn_deep_sets": {"name": "vn_deep_sets", "features": "p", "channels": 8, "num_layers": 2},
    "vn_dgcnn": {"name": "vn_dgcnn", "in_vectors": 0, "channels": 6},
    "vn_small": {"name": "vn_small", "num_neighbours": 4, "channels": 8, "pooling": "max"},
}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def backbone(**changes: Any) -> MPNN:
    """A network without any rotational symmetry."""
    torch.manual_seed(0)
    settings = {"elements": ELEMENTS, "channels": 12, "num_layers": 2, "cutoff": 4.0, "out_vectors": 1}
    model = MPNN(**{**settings, **changes}).double()
    frame = molecule("CH3CH2OH")
    model.calibrate(build_graph([frame], 4.0))  # else it hardly notices the orientation
    return model


def make(pose: str = "egnn_vectors", **changes: Any) -> Canonicalised:
    inner = backbone()
    torch.manual_seed(1)
    group = "SE(3)" if pose == "vn_small" else "E(3)"
    return Canonicalised(inner, pose=POSES[pose], **{"group": group, **changes}).double().eval()


def atoms(seed: int = 0, name: str = "CH3CH2OH") -> Atoms:
    frame = molecule(name)
    frame.rattle(0.1, seed=seed)
    return frame


def graph_of(*frames: Atoms) -> Graph:
    return build_graph(list(frames), 4.0)


def sparse_graph_of(*frames: Atoms) -> Graph:
    """With pairs up to 2 Å: deep sets of positions need a graph that is not complete."""
    return build_graph(list(frames), 2.0)


def moved(graph: Graph, turn: Tensor, shift: Tensor | None = None) -> Graph:
    pos = graph.pos @ turn.T
    cell = graph.cell @ turn.T
    return graph.replace(pos=pos if shift is None else pos + shift, cell=cell)


def error(model: nn.Module, graph: Graph, turn: Tensor, shift: Tensor | None = None) -> float:
    """Largest difference between the prediction for the moved structures and the moved prediction."""
    here, there = model(graph), model(moved(graph, turn, shift))
    assert here.scalars.abs().max() > 1e-3
    assert here.vectors.abs().max() > 1e-3
    wrong = (there.scalars - here.scalars).abs().max(), (there.vectors - here.vectors @ turn.T).abs().max()
    return float(max(wrong).detach())


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


WITH_A_POSE = {
    "an atom": Atoms("O", [[1.0, 2.0, 3.0]]),
    "two equal atoms": Atoms("O2", [[0, 0, 0], [0.3, 0.9, 0.5]]),
    "linear": molecule("CO2"),
    "planar with an axis": molecule("H2O"),
    "planar": molecule("HCOOH"),
    "mirror plane": molecule("CH3CH2OH"),
}
TRIANGLE = [[math.cos(k * math.pi / 1.5), math.sin(k * math.pi / 1.5), 0] for k in range(3)]
WITHOUT_A_POSE = {"planar with a three-fold axis": Atoms("O3", TRIANGLE), "cubic": molecule("CH4")}


def sums_of_poses(model: Canonicalised, graph: Graph) -> list[Tensor]:
    turns = random_rotations(4, generator=gen(1))
    return [model(moved(graph, sign * turn)).scalars.sum(0).detach() for turn in turns for sign in (1, -1)]


@pytest.mark.parametrize("group", ["E(3)", "SE(3)"])
@pytest.mark.parametrize("name", WITH_A_POSE)
def test_structures_with_a_symmetry_of_their_own_keep_their_scalars(name: str, group: str) -> None:
    graph, model = graph_of(WITH_A_POSE[name]), make(group=group)
    rotation = model.poses(graph).rotation
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).double()[None], atol=1e-12, rtol=0)
    found = sums_of_poses(model, graph)
    if group == "SE(3)":  # chiral for the network where the molecule is not
        found = found[::2]
    for scalars in found:
        torch.testing.assert_close(scalars, found[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", WITHOUT_A_POSE)
def test_structures_without_a_pose_are_finite_and_named(name: str) -> None:
    graph, model = graph_of(WITHOUT_A_POSE[name]), make()
    pos = graph.pos.clone().requires_grad_(True)
    with pytest.warns(GeomolWarning, match="1 of 1 structures leave the pose network without a pose"):
        scalars = model(graph.replace(pos=pos)).scalars
    (grad,) = torch.autograd.grad(scalars.sum(), pos)
    assert bool(grad.isfinite().all())
    found = sums_of_poses(model, graph)  # warns once only
    assert max(float((s - found[0]).abs().max()) for s in found) > 1e-6  # what the warning is about
    soft = make(softness=1e-2)
    found = sums_of_poses(soft, graph)
    assert max(float((s - found[0]).abs().max()) for s in found) < 1e-7


def test_a_pose_network_that_reads_too_little_is_named() -> None:
    """On a complete graph the layers of deep sets multiply all positions by the same numbers, whose mean is zero."""
    graph = graph_of(atoms(0, "CH3OH"))
    assert graph.num_edges == 6 * 5
    assert make("vn_deep_sets").pose(graph).axes.abs().max() < 1e-5  # the offset in divisions
    with pytest.warns(GeomolWarning, match="reads too little"):
        make("vn_deep_sets").float()(graph)


def test_plain_gram_schmidt_would_not_stay_finite() -> None:
    v = torch.tensor([1.0, 2.0, 3.0]).double()
    collinear = torch.stack([v, 2 * v, -v], dim=-1)
    w = collinear[:, 1] - collinear[:, 1] @ v / (v @ v) * v
    assert not bool((w / w.norm()).isfinite().all())
    eye = torch.eye(3).double()
    for matrix in (collinear, torch.zeros(3, 3).double()):
        for third in ("free", "cross", "determinant"):
            ours = gram_schmidt(matrix, third=third)
            torch.testing.assert_close(ours.T @ ours, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(gram_schmidt(collinear)[:, 0], v / v.norm())
    assert torch.equal(gram_schmidt(torch.zeros(3, 3)), torch.eye(3))
    soft = gram_schmidt(collinear, softness=1e-3)
    assert soft[:, 1:].abs().max() < 1e-3


def test_gram_schmidt_is_that_of_a_qr_decomposition_and_equivariant() -> None:
    m = torch.randn(50, 3, 3, generator=gen(), dtype=torch.float64)
    q, r = torch.linalg.qr(m)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    torch.testing.assert_close(gram_schmidt(m), q, atol=1e-9, rtol=0)
    turn = random_rotations(50, generator=gen(1))
    for third, sign in (("free", -1), ("cross", 1), ("determinant", 1)):
        ours = gram_schmidt(m, third=third)
        torch.testing.assert_close(gram_schmidt(sign * turn @ m, third=third), sign * turn @ ours, atol=1e-9, rtol=0)
        if third != "free":
            torch.testing.assert_close(torch.linalg.det(ours), torch.ones(50).double(), atol=1e-9, rtol=0)
    with pytest.raises(ConfigError, match="third axis"):
        gram_schmidt(m, third="left")


def test_gram_schmidt_has_the_derivatives_of_finite_differences() -> None:
    m = torch.randn(4, 3, 3, generator=gen(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gram_schmidt, (m,))
    assert torch.autograd.gradgradcheck(gram_schmidt, (m,))


def test_softness_makes_poses_continuous_through_planar_structures() -> None:
    """Three vectors become coplanar and then change hand: the third axis jumps, unless it may shorten."""
    planes = [torch.tensor([[1.0, 0.2, 0.1], [0.0, 1.0, 0.3], [0.0, 0.0, z]]).double() for z in (-1e-4, 1e-4)]
    jump = [gram_schmidt(m) for m in planes]
    soft = [gram_schmidt(m, softness=0.1) for m in planes]
    assert (jump[1] - jump[0]).abs().max() > 1
    assert (soft[1] - soft[0]).abs().max() < 1e-2
    assert make(softness=0.1).symmetry.continuous
    assert not make().symmetry.continuous
    assert error(make(softness=0.3), graph_of(atoms()), -random_rotations(1, generator=gen())[0]) < 1e-10


def test_prior_is_that_of_the_angle() -> None:
    for angle in (0.0, 0.3, 1.0, math.pi):
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)[None]
        assert float(prior_loss(turn)) == pytest.approx(4 * (1 - c) / 9, abs=1e-15)
    assert float(prior_loss(-torch.eye(3)[None])) == pytest.approx(4 / 3)


def test_penalty_is_the_weighted_prior_of_the_last_forward_pass() -> None:
    model, plain, graph = make(prior_weight=2.5), make(), graph_of(atoms(), atoms(1))
    out = model(graph)
    rotation = model.poses(graph).rotation
    penalty = model.penalty()
    assert penalty is not None
    assert penalty.requires_grad
    assert float(penalty.detach()) == pytest.approx(2.5 * float((rotation.detach() - torch.eye(3)).square().mean()))
    assert torch.equal(out.scalars, plain(graph).scalars)  # weight 0 is the model without a prior
    assert plain.penalty() is None
    copied = copy.deepcopy(model)  # as for a moving average of the weights
    assert copied.penalty() is None


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


def test_forces_are_minus_the_gradient_and_sum_to_no_force_and_no_torque() -> None:
    inner = backbone(out_vectors=0)
    torch.manual_seed(1)
    wrapped = Canonicalised(inner, pose=POSES["egnn_vectors"])
    potential = Potential(wrapped, elements=ELEMENTS, e0=[0.0] * 4, allow_discontinuous=True).double().eval()
    graph = graph_of(atoms())
    forces = potential(graph).forces
    assert forces is not None
    step = 1e-5
    for node, axis in ((0, 0), (3, 1), (7, 2)):
        energy = []
        for sign in (1, -1):
            pos = graph.pos.clone()
            pos[node, axis] += sign * step
            energy.append(float(potential(graph.replace(pos=pos)).energy.sum().detach()))
        assert float(forces[node, axis]) == pytest.approx(-(energy[0] - energy[1]) / (2 * step), rel=1e-5, abs=1e-8)
    assert forces.abs().max() > 1e-3
    assert forces.sum(0).abs().max() < 1e-9
    assert torch.linalg.cross(graph.pos, forces).sum(0).abs().max() < 1e-9


def test_energy_and_slope_are_continuous_where_an_atom_crosses_the_cutoff() -> None:
    inner = backbone(out_vectors=0)
    torch.manual_seed(1)
    model = Canonicalised(inner, pose=POSES["egnn_vectors"]).double().eval()
    assert model.symmetry.smooth
    base = atoms()
    values = []
    for distance in (4.0 - 1e-4, 4.0 + 1e-4):
        frame = base.copy()
        far = frame.positions[0] + distance * (frame.positions[0] - frame.get_center_of_mass()) / math.dist(
            frame.positions[0], frame.get_center_of_mass()
        )
        frame += Atoms("H", [far])
        graph = graph_of(frame)
        pos = graph.pos.clone().requires_grad_(True)
        energy = model(graph.replace(pos=pos)).scalars.sum()
        values.append((float(energy.detach()), torch.autograd.grad(energy, pos)[0]))
    assert abs(values[0][0] - values[1][0]) < 1e-3
    assert (values[0][1] - values[1][1]).abs().max() < 1e-2
    assert not make("vn_small").symmetry.smooth


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


class TemplateClassifier(nn.Module):
    """Reads the raw coordinates of five points: it knows them in the one pose that it was trained on."""

    cutoff = math.inf

    def __init__(self) -> None:
        super().__init__()
        self.symmetry = Symmetry(group="T(3)", exact=True, smooth=True)
        self.config: dict[str, object] = {}
        self.network = nn.Sequential(nn.Linear(15, 32), nn.Dropout(0.1), nn.SiLU(), nn.Linear(32, 3))

    def forward(self, graph: Graph) -> Features:
        pos = graph.pos.view(-1, 5, 3)
        logits = self.network((pos - pos.mean(1, keepdim=True)).flatten(1))
        return Features(logits.repeat_interleave(5, dim=0))


def aligned_shapes(num: int, seed: int) -> tuple[Graph, Tensor]:
    """Three shapes of five points each, all in the same pose, with noise."""
    templates = 1.5 * torch.randn(3, 5, 3, generator=gen(7), dtype=torch.float64)
    label = torch.randint(0, 3, (num,), generator=gen(seed))
    pos = templates[label] + 0.1 * torch.randn(num, 5, 3, generator=gen(seed + 1), dtype=torch.float64)
    frames = [Atoms("X5", positions=p.numpy()) for p in pos]
    return build_graph(frames, math.inf, complete=True), label


def fit(model: nn.Module, graph: Graph, label: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(graph).scalars[::5], label)
        penalty = model.penalty() if isinstance(model, Canonicalised) else None
        (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def accuracy(model: nn.Module, graph: Graph, label: Tensor) -> float:
    with torch.no_grad():
        return float((model.eval()(graph).scalars[::5].argmax(1) == label).double().mean())


def test_a_frozen_model_keeps_its_accuracy_on_aligned_data_and_gets_it_on_turned_data() -> None:
    torch.manual_seed(0)
    train, test = aligned_shapes(60, 0), aligned_shapes(60, 10)
    plain = TemplateClassifier().double()
    fit(plain, *train, steps=120)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    pose = {"name": "egnn_vectors", "elements": [0], "cutoff": math.inf, "channels": 16, "num_layers": 1}
    wrapped = Canonicalised(plain, pose=pose, group="SE(3)", frozen=True, prior_weight=10.0).double()
    start = float(prior_loss(wrapped.poses(test[0]).rotation).detach())
    assert {name.split(".")[0] for name, p in wrapped.named_parameters() if p.requires_grad} == {"pose"}
    wrapped.train()
    assert not plain.training  # its dropout stays off
    fit(wrapped, *train, steps=150)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    turned = [moved(test[0], turn) for turn in random_rotations(5, generator=gen(3))]
    aligned = accuracy(wrapped, *test)
    assert accuracy(plain, *test) >= 0.95
    assert aligned >= 0.95
    assert all(accuracy(wrapped, graph, test[1]) == aligned for graph in turned)
    assert sum(accuracy(plain, graph, test[1]) for graph in turned) / 5 < 0.7  # the control
    assert float(prior_loss(wrapped.poses(test[0]).rotation).detach()) < 0.5 * start


def test_a_pose_from_somewhere_else_is_not_enough() -> None:
    """The control of the equivariance tests: a wrapper whose pose does not turn with the structure."""

    class FixedPose(Canonicalised):
        def poses(self, graph: Graph) -> Poses:
            poses = super().poses(graph)
            return Poses(torch.eye(3).double().expand_as(poses.rotation), poses.weight, poses.structure, poses.origin)

    model = FixedPose(backbone(), pose=POSES["egnn_vectors"]).double()
    assert error(model, graph_of(atoms()), random_rotations(1, generator=gen())[0]) > 1e-2


@pytest.mark.parametrize("pose", POSES)
def test_losses_on_forces_train_the_pose_network(pose: str) -> None:
    """Derivatives of forces by weights pass through the choice of the pose, and are those of finite differences."""
    model, graph = make(pose, prior_weight=0.0), sparse_graph_of(atoms(), atoms(1, "CH3OH"))
    weight = next(p for name, p in model.pose.named_parameters() if name.endswith("weight") and p.dim() == 2)

    def loss() -> Tensor:
        pos = graph.pos.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(graph.replace(pos=pos)).scalars.sum(), pos, create_graph=True)
        total: Tensor = slope.square().sum()
        return total

    (grad,) = torch.autograd.grad(loss(), weight)
    step, found = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0] += sign * step
        found.append(float(loss().detach()))
        with torch.no_grad():
            weight[0, 0] -= sign * step
    assert float(grad.abs().max()) > 1e-6
    assert float(grad[0, 0]) == pytest.approx(
        (found[0] - found[1]) / (2 * step), rel=1e-3, abs=1e-4 * float(grad.abs().max())
    )
