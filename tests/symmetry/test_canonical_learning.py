"""Learning with a learned pose: its prior, forces and their derivatives, and a frozen model that is adapted."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from ase import Atoms
from symmetry.canonical_case import ELEMENTS, POSES, atoms, backbone, gen, graph_of, make, moved, sparse_graph_of
from torch import Tensor, nn

from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models import Features, Symmetry
from geomol.potential import Potential
from geomol.symmetry.canonical import Canonicalised, prior_loss


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
