"""Free matrices: invariant off the group, pulled to it by the loss; for O(3) and for the Lorentz group."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models.mpnn import MPNN
from geomol.symmetry.orbit_distance import (
    LORENTZ,
    OrbitDistance,
    algebraic_inverse,
    bound_loss,
    orbit_distance,
    towards_the_group,
)

METRICS = {"O(3)": torch.ones(3, dtype=torch.float64), "O(1,3)": torch.tensor(LORENTZ, dtype=torch.float64)}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def group_elements(name: str, num: int) -> Tensor:
    """Members of the group: exponentials of its algebra, of both orientations."""
    metric = METRICS[name]
    a = torch.randn(num, len(metric), len(metric), generator=gen(4), dtype=torch.float64)
    signs = torch.ones(num, dtype=torch.float64)
    signs[::2] = -1
    return signs[:, None, None] * torch.linalg.matrix_exp(0.5 * (a - a.mT) * metric)


class FreeMatrices(nn.Module):
    """M(x, z): n columns of particle vectors with weights from their invariant products and from noise per particle."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.metric = METRICS[name]
        self.network = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, len(self.metric))).double()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        products = (x * self.metric) @ x.mT
        own = products.diagonal(dim1=-2, dim2=-1)
        weights = self.network(torch.stack([own, products.mean(-1), z], dim=-1).tanh())
        return x.mT @ weights / x.shape[-2]


def wrapped(net: FreeMatrices, x: Tensor, z: Tensor, noise_samples: int = 4) -> Tensor:
    """Mean over samples of a fixed function, without symmetry, of M⁻¹ x."""
    total = x.new_zeros(len(x))
    for k in range(noise_samples):
        inverse = algebraic_inverse(net(x, z + k), net.metric)
        total = total + torch.tanh(x @ inverse.mT + 0.3).prod(-1).sum(-1)
    return total / noise_samples


@pytest.mark.parametrize("name", METRICS)
def test_the_algebraic_inverse_is_the_inverse_on_the_group(name: str) -> None:
    g, metric = group_elements(name, 8), METRICS[name]
    torch.testing.assert_close(algebraic_inverse(g, metric), torch.linalg.inv(g), atol=1e-12, rtol=1e-12)
    assert orbit_distance(g, metric).max() < 1e-24
    assert orbit_distance(1.1 * g, metric).min() > 1e-2


@pytest.mark.parametrize("name", METRICS)
def test_predictions_are_invariant_at_the_start_off_the_group(name: str) -> None:
    net, metric = FreeMatrices(name), METRICS[name]
    x = torch.randn(6, 5, len(metric), generator=gen(), dtype=torch.float64)
    z = torch.randn(6, 5, generator=gen(1), dtype=torch.float64)
    assert orbit_distance(net(x, z), metric).min() > 1e-2  # far from the group
    here = wrapped(net, x, z)
    for g in group_elements(name, 6):
        torch.testing.assert_close(wrapped(net, x @ g.T, z), here, atol=1e-12, rtol=1e-12)
    assert here.std() > 1e-2
    true_inverse = torch.linalg.inv(net(x, z))  # the control of "off the group": the formula is not the inverse
    assert (true_inverse - algebraic_inverse(net(x, z), metric)).abs().max() > 0.1


@pytest.mark.parametrize("name", METRICS)
def test_the_loss_does_not_depend_on_the_orientation_and_falls(name: str) -> None:
    net, metric = FreeMatrices(name), METRICS[name]
    x = torch.randn(16, 6, len(metric), generator=gen(), dtype=torch.float64)
    z = torch.randn(16, 6, generator=gen(1), dtype=torch.float64)
    g = group_elements(name, 1)[0]
    torch.testing.assert_close(
        orbit_distance(net(x @ g.T, z), metric), orbit_distance(net(x, z), metric), atol=1e-10, rtol=1e-10
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = orbit_distance(net(x, z), metric).mean() + bound_loss(net(x, z), 3.0).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_proper_distance_tells_reflections_apart() -> None:
    eye, metric = torch.eye(3).double(), METRICS["O(3)"]
    assert float(orbit_distance(-eye, metric)) == 0
    assert float(orbit_distance(-eye, metric, proper=True)) == pytest.approx(4)
    assert float(orbit_distance(eye, metric, proper=True)) == 0


def test_bound_loss_starts_at_the_bound() -> None:
    matrix = torch.tensor([[1.0, -3.0], [0.5, 2.0]])
    assert float(bound_loss(matrix, 2.0)) == pytest.approx(0.25)
    assert float(bound_loss(matrix, 3.0)) == 0


# the wrapper


def make(**changes: Any) -> OrbitDistance:
    torch.manual_seed(0)
    inner = MPNN(elements=[1, 6, 8], channels=12, num_layers=2, cutoff=4.0, out_vectors=1).double()
    inner.calibrate(graph_of())  # else it hardly notices the orientation
    pose = {"name": "egnn_vectors", "channels": 12, "num_noise": int(changes.get("noise_scale", 0) > 0)}
    return OrbitDistance(inner, pose=pose, **changes).double().eval()


def graph_of(num: int = 3) -> Graph:
    frames = []
    for seed in range(num):
        frame: Atoms = molecule("CH3CH2OH")
        frame.rattle(0.1, seed=seed)
        frames.append(frame)
    return build_graph(frames, 4.0)


def test_wrapped_models_are_equivariant_at_the_start() -> None:
    graph = graph_of()
    turns = random_rotations(3, generator=gen())
    for changes in ({}, {"group": "SE(3)"}):
        model = make(**changes)
        here = model(graph)
        matrix = model.poses(graph).rotation
        assert (matrix.mT @ matrix - torch.eye(3)).abs().max() > 0.3  # off the group
        for turn in turns:
            there = model(graph.replace(pos=graph.pos @ turn.T))
            torch.testing.assert_close(there.scalars, here.scalars, atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(there.vectors, here.vectors @ turn.T, atol=1e-12, rtol=1e-12)
    mirrored = make()(graph.replace(pos=-graph.pos + 2.0))
    torch.testing.assert_close(mirrored.vectors, -make()(graph).vectors, atol=1e-12, rtol=1e-12)
    assert make()(graph).vectors.abs().max() > 1e-3
    turned = graph.replace(pos=graph.pos @ turns[0].T)
    assert (make().backbone(turned).scalars - make().backbone(graph).scalars).abs().max() > 1e-2  # the control


def test_the_penalty_falls_in_200_steps() -> None:
    model, graph = make(), graph_of()
    model.calibrate(graph)
    size = model.poses(graph).rotation.square().sum(-2).mean().detach()
    assert float(size) == pytest.approx(1.0)
    optimizer = torch.optim.Adam(model.pose.parameters(), lr=3e-3)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        model.poses(graph)
        loss = model.penalty()
        assert loss is not None
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
    rotation = model.poses(graph).rotation
    assert (rotation.mT @ rotation - torch.eye(3)).abs().max() < 0.3


def test_samples_average_the_noise_away() -> None:
    graph = graph_of(1)
    spread = {}
    for samples in (4, 64):
        found = [make(noise_scale=0.5, samples=samples, seed=seed)(graph).scalars.sum().detach() for seed in range(30)]
        spread[samples] = float(torch.stack(found).std())
    assert 2.5 < spread[4] / spread[64] < 6.5  # 4 on average: the variance falls as 1/K


def test_newton_steps_part_parallel_vectors_smoothly_and_commute_with_rotations() -> None:
    matrix = torch.randn(50, 3, 3, generator=gen(), dtype=torch.float64)
    matrix[:, :, 1] = matrix[:, :, 0] + 0.1 * matrix[:, :, 1]  # nearly parallel
    near = towards_the_group(matrix, 14)
    u, _, vh = torch.linalg.svd(matrix)
    distance = orbit_distance(near, METRICS["O(3)"])
    assert float(distance.median()) < 1e-6
    assert float(distance.median()) < 1e-4 * float(orbit_distance(matrix, METRICS["O(3)"]).median())
    close = distance < 1e-6
    torch.testing.assert_close(near[close], (u @ vh)[close], rtol=0, atol=1e-2)  # the nearest orthogonal matrix
    turn = random_rotations(1, generator=gen(1))[0]
    torch.testing.assert_close(towards_the_group(turn @ matrix, 14), turn @ near, rtol=0, atol=1e-12)
    flat = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: towards_the_group(m, 6), flat)


def test_wrapped_models_with_newton_steps_stay_equivariant_and_start_near_the_group() -> None:
    graph, turn = graph_of(), random_rotations(1, generator=gen())[0]
    model = make(newton_steps=14)
    here, there = model(graph), model(graph.replace(pos=graph.pos @ turn.T))
    torch.testing.assert_close(there.scalars, here.scalars, atol=1e-11, rtol=1e-11)
    with_steps, without = (m.penalty() for m in (model, make()) if m(graph) is not None)
    assert with_steps is not None
    assert without is not None
    assert float(with_steps.detach()) < 0.1 * float(without.detach())
    assert model.config["newton_steps"] == 14
    with pytest.raises(ConfigError, match="newton_steps must not be negative"):
        make(newton_steps=-1)


def test_structures_with_a_symmetry_of_their_own_are_equivariant_too() -> None:
    model = make()
    for name in ("CH4", "C6H6", "H2O", "CO2"):
        graph = build_graph([molecule(name)], 4.0)
        turn = random_rotations(1, generator=gen(3))[0]
        here, there = model(graph).scalars, model(graph.replace(pos=graph.pos @ turn.T)).scalars
        assert bool(here.isfinite().all())
        torch.testing.assert_close(there, here, atol=1e-5, rtol=0)


def test_settings_and_configuration() -> None:
    with pytest.raises(ConfigError, match="weights"):
        make(orbit_weight=-1.0)
    with pytest.raises(ConfigError, match="no poses for group"):
        make(group="O(1,3)")
    model, graph = make(bound=3.0), graph_of()
    model.calibrate(graph)
    twin = OrbitDistance(make().backbone, **model.config).double().eval()  # type: ignore[arg-type]
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(graph).scalars, model(graph).scalars)
    assert math.isclose(float(twin.scale), float(model.scale))
