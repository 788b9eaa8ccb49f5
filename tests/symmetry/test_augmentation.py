"""Averages over motions: exact on finite groups, repeatable, and with widths that find the symmetry of the task."""

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
from geomol.geometry.grids import icosahedral_rotations, octahedral_rotations
from geomol.graph import Graph, build_graph
from geomol.models import Features, Symmetry
from geomol.models.mpnn import MPNN
from geomol.symmetry.augmentation import LearnedAugmentation, TestTimeAverage, affine_generators


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def backbone() -> MPNN:
    torch.manual_seed(0)
    model = MPNN(elements=[1, 6, 8], channels=12, num_layers=2, cutoff=4.0, out_vectors=1).double()
    model.calibrate(graph_of())  # else it hardly notices the orientation
    return model


def average(**changes: Any) -> TestTimeAverage:
    return TestTimeAverage(backbone(), **changes).double().eval()


def graph_of(num: int = 2) -> Graph:
    frames = []
    for seed in range(num):
        frame = molecule("CH3CH2OH")
        frame.rattle(0.1, seed=seed)
        frames.append(frame)
    return build_graph(frames, 4.0)


def error(model: nn.Module, graph: Graph, turn: Tensor) -> float:
    here, there = model(graph), model(graph.replace(pos=graph.pos @ turn.T + 0.7))
    assert here.vectors.abs().max() > 1e-3
    wrong = (there.scalars - here.scalars).abs().max(), (there.vectors - here.vectors @ turn.T).abs().max()
    return float(max(wrong).detach())


@pytest.mark.parametrize(
    ("rotations", "members"), [("octahedral", octahedral_rotations()), ("icosahedral", icosahedral_rotations())]
)
def test_an_average_over_a_group_is_exact_on_the_group_and_better_between(rotations: str, members: Tensor) -> None:
    graph, generic = graph_of(), random_rotations(1, generator=gen())[0]
    for group, signs in (("SE(3)", (1,)), ("E(3)", (1, -1))):
        model = average(rotations=rotations, group=group)
        for turn in members[:: len(members) // 5]:
            for sign in signs:
                assert error(model, graph, sign * turn) < 1e-12
        between = error(model, graph, generic)
        assert 1e-9 < between < 0.5 * error(model.backbone, graph, generic)
        assert not model.symmetry.exact
        assert not model.symmetry.stochastic
    proper = average(rotations=rotations, group="SE(3)")
    assert error(proper, graph, -members[3]) > 1e-6  # the control: rotations alone hold no inversion


def test_random_averages_repeat_and_converge() -> None:
    graph = graph_of()
    model = average(samples=8)
    assert torch.equal(model(graph).scalars, model(graph).scalars)
    torch.testing.assert_close(model(graph_of(1)).scalars, model(graph).scalars[:9], atol=1e-12, rtol=1e-12)
    turns = random_rotations(8, generator=gen(2))
    few, many = (sum(error(average(samples=k, group="E(3)"), graph, turn) for turn in turns) for k in (4, 256))
    assert 4 < few / many < 16  # 8 on average
    assert (average(seed=1)(graph).scalars - average(seed=0)(graph).scalars).abs().max() > 1e-5


def test_training_sees_random_rotations_of_each_step_or_the_structure_as_it_is() -> None:
    graph = graph_of()
    model = average().train()
    model.reseed(1)
    first = model.poses(graph).rotation
    assert first.shape == (2, 3, 3)
    assert not torch.equal(first[0], first[1])
    model.reseed(2)
    assert not torch.equal(model.poses(graph).rotation, first)
    plain = average(train_samples=0).train()
    torch.testing.assert_close(plain(graph).scalars, plain.backbone(graph).scalars, atol=1e-12, rtol=1e-12)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown rotations"):
        average(rotations="cubic")
    with pytest.raises(ConfigError, match="no average over group"):
        average(group="O(3)")
    with pytest.raises(ConfigError, match="unknown generators"):
        learned(generators=["twists"])
    with pytest.raises(ConfigError, match="width"):
        learned(width=0.0)


# learned widths


class Quadratic(nn.Module):
    """Σ_i w(|x_i|²) (a x² + b y² + c z²) per node: rotation-symmetric for equal weights, about z for a = b."""

    cutoff = math.inf

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.symmetry = Symmetry(group="1", exact=True, smooth=True)
        self.config: dict[str, object] = {}

    def forward(self, graph: Graph) -> Features:
        scalars = (graph.pos.square() * self.weights).sum(1, keepdim=True)
        return Features(scalars, torch.tanh(graph.pos * self.weights)[:, None])


def learned(inner: nn.Module | None = None, **changes: Any) -> LearnedAugmentation:
    return LearnedAugmentation(inner or Quadratic(1.0, 2.0, 3.0), **changes).double()


def test_generators_are_those_of_rotations_shears_scales_and_translations() -> None:
    a = affine_generators(["rotations", "shears", "scales", "translations"])
    assert a.shape == (12, 4, 4)
    rotations, shears, scales = (a[k : k + 3, :3, :3] for k in (0, 3, 6))
    assert torch.equal(rotations, -rotations.mT)
    assert torch.equal(shears, shears.mT)
    assert shears.diagonal(dim1=1, dim2=2).abs().max() == 0
    x = torch.tensor([[1.0, 0.0, 0.0]]).double()
    quarter = torch.linalg.matrix_exp(math.pi / 2 * rotations[2])
    torch.testing.assert_close(x @ quarter.T, torch.tensor([[0.0, 1.0, 0.0]]).double(), atol=1e-12, rtol=0)
    assert torch.equal(scales.sum(0), torch.eye(3).double())
    assert torch.equal(a[9:, :3, 3], 0.5 * torch.eye(3).double())
    assert torch.linalg.matrix_rank(a.flatten(1)) == 12


def test_steps_are_uniform_and_follow_from_the_draw() -> None:
    model, graph = learned(samples=400, train_samples=300), graph_of()
    u = model.eval().draw_steps(graph)
    assert u.shape == (800, 12)
    assert torch.equal(u[:400], u[400:])  # the same for every structure in evaluation
    assert u.abs().max() <= 1
    assert u.square().mean() == pytest.approx(1 / 3, abs=0.02)
    u = model.train().draw_steps(graph)
    assert u.shape == (600, 12)
    assert not torch.equal(u[:300], u[300:])
    model.reseed(1)
    assert not torch.equal(model.draw_steps(graph), u)


def test_gradients_by_widths_are_those_of_finite_differences_at_fixed_steps() -> None:
    model, graph = learned(samples=3), graph_of(1)
    model.eval()

    def value() -> Tensor:
        out = model(graph)
        assert out.vectors is not None
        total: Tensor = out.scalars.sum() + out.vectors[:, 0, 0].sum()
        return total

    (grad,) = torch.autograd.grad(value(), model.theta)
    step = 1e-6
    for k in range(12):
        found = []
        for sign in (1, -1):
            with torch.no_grad():
                model.theta[k] += sign * step
                found.append(float(value()))
                model.theta[k] -= sign * step
        assert float(grad[k]) == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-5, abs=1e-7)
    assert grad.abs().min() > 1e-6


def test_vectors_return_by_the_inverse_map() -> None:
    class Positions(Quadratic):
        def forward(self, graph: Graph) -> Features:
            return Features(graph.pos[:, :1] * 0, graph.pos[:, None])

    graph = graph_of(1)
    model = learned(Positions(1, 1, 1), generators=["rotations", "shears", "scales"]).eval()
    vectors = model(graph).vectors
    assert vectors is not None
    torch.testing.assert_close(vectors[:, 0], graph.pos - graph.pos.mean(0), atol=1e-10, rtol=0)


def test_penalty_rewards_widths_below_the_limit_only() -> None:
    model, graph = learned(reg=0.1, limit=1.0), graph_of(1)
    assert float(model.widths[0].detach()) == pytest.approx(0.54)
    model(graph)
    penalty = model.penalty()
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(-0.1 * 0.54 * math.sqrt(12))
    with torch.no_grad():
        model.theta[1:].fill_(5.0)  # softplus: 5.007
    model(graph)
    penalty = model.penalty()
    assert penalty is not None
    (grad,) = torch.autograd.grad(penalty, model.theta)
    assert float(penalty.detach()) == pytest.approx(-0.1 * 0.54)
    assert float(grad[0]) < 0
    assert grad[1:].abs().max() == 0


def widths_after_training(inner: nn.Module, generators: list[str]) -> Tensor:
    """Widths fitted with the exact function as a backbone: they grow where the function does not notice."""
    model = learned(inner, generators=generators, width=0.3, reg=0.02, train_samples=4, limit=1.5)
    pos = torch.randn(12, 4, 3, generator=gen(1), dtype=torch.float64)
    frames = [Atoms("X4", positions=(p - p.mean(0)).numpy()) for p in 2 * pos]
    graph = build_graph(frames, math.inf, complete=True)
    target = inner(graph).scalars.view(12, 4).sum(1)
    optimizer = torch.optim.Adam([model.theta], lr=0.05)
    for draw in range(200):
        model.reseed(draw)
        optimizer.zero_grad()
        predicted = model(graph).scalars.view(12, 4).sum(1)
        loss = ((predicted - target) / target).square().mean() + model.penalty()
        loss.backward()
        optimizer.step()
    return model.widths.detach()


def test_rotations_widen_and_shears_do_not_where_the_target_is_rotation_symmetric() -> None:
    widths = widths_after_training(Quadratic(1.0, 1.0, 1.0), ["rotations", "shears"])
    assert widths[:3].min() > 1.0
    assert widths[3:].max() < 0.4


def test_only_the_rotation_about_z_widens_where_the_target_singles_z_out() -> None:
    widths = widths_after_training(Quadratic(1.0, 1.0, 4.0), ["rotations"])
    assert widths[2] > 1.0
    assert widths[:2].max() < 0.4


def test_a_configuration_makes_an_equal_model() -> None:
    graph = graph_of()
    for cls, model in ((TestTimeAverage, average(samples=3)), (LearnedAugmentation, learned(samples=2).eval())):
        twin = cls(model.backbone, **model.config).double().eval()  # type: ignore[arg-type]
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin(graph).scalars, model(graph).scalars)
