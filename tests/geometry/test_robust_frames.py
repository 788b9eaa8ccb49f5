"""Robust frames, and that they have none of the faults of principal axes: continuous, finite, invariant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule
from geometry.frame_averages import cloud, pca_average, robust_average, robust_averages, turn
from torch import Tensor

from geomol.checks import symmetric_molecules
from geomol.geometry.robust_frames import robust_frames


def crossing(seed: int, eps: float) -> Tensor:
    """Points whose two larger principal moments cross as eps goes through 0."""
    pos = cloud(seed)
    pos = pos - pos.mean(0)
    _, axes = torch.linalg.eigh(pos.T @ pos)
    pos = pos @ axes  # principal axes along x, y, z
    scale = pos.square().sum(0).sqrt()
    pos = pos / scale * scale.new_tensor([1.0, 2.0, 2.0])
    tilt = torch.eye(3).double()
    tilt[1, 2] = tilt[2, 1] = eps  # equal moments are split along the diagonals, and exchanged with the sign of eps
    return pos @ tilt @ turn(seed).T


def test_robust_averages_are_continuous_where_pca_averages_jump() -> None:
    """[7] 100 paths through equal principal moments."""
    steps = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8]
    jumps = []
    for seed in range(100):
        ends = robust_averages(torch.stack([crossing(seed, sign * e) for sign in (1, -1) for e in steps]))
        slopes = ((ends[: len(steps)] - ends[len(steps) :]).abs() / torch.tensor(steps).double()).tolist()
        # 1e-14 of rounding over the smallest step is 1e-6; slopes are of order 1
        assert max(slopes) < 10 * min(slopes) + 1e-4, (seed, slopes)
        jumps.append(float((pca_average(crossing(seed, 1e-8)) - pca_average(crossing(seed, -1e-8))).abs()))
    assert sorted(jumps)[50] > 0.01


@pytest.mark.parametrize("mirror", [False, True])
def test_robust_averages_are_invariant_to_rounding(mirror: bool) -> None:
    for seed in range(5):
        pos = cloud(seed)
        value = robust_average(pos, mirror=mirror)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        for moved in (pos @ turn(seed), pos + 5.0, pos[order]):
            assert float((robust_average(moved, mirror=mirror) - value).abs()) < 1e-12
        change = float((robust_average(-pos, mirror=mirror) - value).abs())
        assert change < 1e-12 if mirror else change > 1e-4


SYMMETRIC = {name: torch.tensor(a.positions) for name, a in symmetric_molecules().items()} | {
    "H2": torch.tensor(molecule("H2").positions),
    "HCN": torch.tensor(molecule("HCN").positions),
}


@pytest.mark.parametrize("name", list(SYMMETRIC))
def test_symmetric_molecules_get_finite_invariant_values_and_turning_gradients(name: str) -> None:
    pos = SYMMETRIC[name].clone().requires_grad_()
    value = robust_average(pos)
    (gradient,) = torch.autograd.grad(value, pos, create_graph=True)
    (second,) = torch.autograd.grad((gradient * cloud(1, len(pos))).sum(), pos)
    assert all(bool(torch.isfinite(t).all()) for t in (value, gradient, second))
    for seed, flip in ((1, -1), (2, 1))[: 1 if name == "C60" else 2]:  # its thousands of frames take seconds
        g = turn(seed) * flip
        moved = (pos.detach() @ g).requires_grad_()
        again = robust_average(moved)
        (gradient_again,) = torch.autograd.grad(again, moved, create_graph=True)
        (second_again,) = torch.autograd.grad((gradient_again * (cloud(1, len(pos)) @ g)).sum(), moved)
        assert float((again - value).detach().abs()) < 1e-11
        torch.testing.assert_close(gradient_again, gradient @ g, rtol=0, atol=1e-10)
        torch.testing.assert_close(second_again, second @ g, rtol=1e-8, atol=1e-8)


def test_pca_averages_of_a_tetrahedron_depend_on_its_orientation() -> None:
    """The control of the test above."""
    pos = SYMMETRIC["CH4"]
    assert float((pca_average(pos @ turn(1)) - pca_average(pos)).abs()) > 1e-3


@pytest.mark.parametrize("name", ["CO2", "HCN", "C2H2"])
def test_averages_are_twice_differentiable_where_a_molecule_becomes_linear(name: str) -> None:
    """Gradient and second derivative along a bend have the same limits from all sides as on the line."""
    line = SYMMETRIC[name]
    bend, probe = cloud(3, len(line)), cloud(4, len(line))

    def derivatives(pos: Tensor) -> tuple[Tensor, Tensor]:
        pos = pos.requires_grad_()
        (gradient,) = torch.autograd.grad(robust_average(pos), pos, create_graph=True)
        return gradient.detach(), torch.autograd.grad((gradient * probe).sum(), pos)[0]

    gradient, second = derivatives(line.clone())
    assert second.abs().max() > 0.1
    for eps in (1e-7, 1e-5, 1e-4):
        for sign in (1, -1):
            near, near_second = derivatives(line + sign * eps * bend)
            assert float((near - gradient).abs().max()) < 100 * eps
            assert float((near_second - second).abs().max()) < 1000 * eps + 1e-6


def test_gradients_through_robust_frames_are_those_of_finite_differences() -> None:
    pos = cloud(0).requires_grad_()
    assert torch.autograd.gradcheck(robust_average, pos)
    assert torch.autograd.gradgradcheck(robust_average, pos)


def test_closed_loop_does_no_work() -> None:
    """[7] The gradient along an ellipse in configuration space, on which the active frames change."""
    num = 2000
    angle = torch.arange(num)[:, None, None].double() * 2 * torch.pi / num
    first, second = 0.3 * cloud(1), 0.3 * cloud(2)
    path = (cloud(0) + angle.cos() * first + angle.sin() * second).requires_grad_()
    (gradient,) = torch.autograd.grad(robust_averages(path).sum(), path)
    step = (angle.cos() * second - angle.sin() * first) * 2 * torch.pi / num
    power = (gradient * step).sum((1, 2))
    active = torch.bincount(robust_frames(path[::50].flatten(0, 1), torch.arange(0, 9 * 40 + 1, 9)).structure)
    assert len(active.unique()) > 2
    assert float(power.abs().sum()) > 0.1
    assert abs(float(power.sum())) < 1e-6


def test_frames_of_a_batch_are_those_of_its_members() -> None:
    structures = [*SYMMETRIC.values(), cloud(0), cloud(1, 3)]
    ptr = torch.tensor([0, *np.cumsum([len(p) for p in structures]).tolist()])
    together = robust_frames(torch.cat(structures), ptr)
    assert bool((together.structure.diff() >= 0).all())
    for k, pos in enumerate(structures):
        alone = robust_frames(pos, torch.tensor([0, len(pos)]))
        mine = together.structure == k
        torch.testing.assert_close(together.rotation[mine], alone.rotation)
        torch.testing.assert_close(together.weight[mine], alone.weight)
        assert float(alone.weight.sum()) == pytest.approx(1)
        assert bool((alone.weight > 0).all())


@pytest.mark.parametrize("mirror", [False, True])
def test_robust_frames_are_orthogonal_and_few(mirror: bool) -> None:
    counts = []
    for seed in range(50):
        frames = robust_frames(cloud(seed, 15), torch.tensor([0, 15]), mirror=mirror)
        identity = torch.eye(3).double().expand(len(frames.weight), 3, 3)
        torch.testing.assert_close(frames.rotation.mT @ frames.rotation, identity, rtol=0, atol=1e-12)
        det = torch.linalg.det(frames.rotation)
        assert float((frames.weight * det).sum()) == pytest.approx(0 if mirror else 1)
        counts.append(len(frames.weight) // (1 + mirror))
    assert 1 <= float(np.mean(counts)) <= 16
