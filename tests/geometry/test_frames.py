"""Frames of principal axes against the published ones, their faults; robust frames, and that they have none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule
from torch import Tensor

from geomol.checks import symmetric_molecules
from geomol.errors import ConfigError
from geomol.geometry import random_rotations, rotation_about_z
from geomol.geometry.frames import pca_frames, principal_axes
from geomol.geometry.robust_frames import robust_frames

TOLERANCE = {"rtol": 1e-8, "atol": 1e-8}
PTR9 = torch.tensor([0, 9])


def read_case(golden: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with np.load(golden / f"{name}.npz", allow_pickle=False) as z:
        return json.loads((golden / f"{name}.json").read_text()), {k: torch.from_numpy(z[k]) for k in z.files}


def same_set(a: Tensor, b: Tensor, atol: float = 1e-8) -> bool:
    """Whether two lists of arrays agree in some order, one to one."""
    equal = ((a[:, None] - b[None]).abs().flatten(2) < atol).all(-1)
    return a.shape == b.shape and bool((equal.sum(0) == 1).all()) and bool((equal.sum(1) == 1).all())


def cloud(seed: int, num: int = 9) -> Tensor:
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(seed: int = 0) -> Tensor:
    return random_rotations(1, generator=torch.Generator().manual_seed(seed))[0]


def network(seed: int = 0) -> Any:
    """An arbitrary smooth function of a list of points, without any symmetry."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(3, 32, generator=rng, dtype=torch.float64)
    b, c = torch.randn(2, 32, generator=rng, dtype=torch.float64)
    return lambda points: (torch.tanh(points @ a + b).square() @ c).sum(-1) + (torch.tanh(points @ a) @ c).sum(-1).cos()


def robust_averages(pos: Tensor, *, mirror: bool = True, seed: int = 0) -> Tensor:
    """Averages of a network over the robust frames of many structures of equal size, (G, n, 3) -> (G,)."""
    num = pos.shape[1]
    frames = robust_frames(pos.flatten(0, 1), torch.arange(0, len(pos) * num + 1, num), mirror=mirror)
    seen = (pos - frames.origin[:, None])[frames.structure] @ frames.rotation
    return pos.new_zeros(len(pos)).index_add(0, frames.structure, frames.weight * network(seed)(seen))


def robust_average(pos: Tensor, *, mirror: bool = True, seed: int = 0) -> Tensor:
    return robust_averages(pos[None], mirror=mirror, seed=seed)[0]


def pca_average(pos: Tensor, *, group: str = "O(3)", seed: int = 0, **settings: Any) -> Tensor:
    frames, found = pca_frames(pos, torch.tensor([0, len(pos)]), group=group, **settings)
    return network(seed)((pos - found.origin) @ frames[0]).mean()


# principal axes, against the published frames


@pytest.mark.parametrize("name", ["frames_5", "frames_40"])
def test_frames_and_averages_are_the_official_ones(golden: Path, name: str) -> None:
    _, z = read_case(golden, f"frame_averaging/{name}")
    points, vectors = z["inputs/points"], z["inputs/vectors"]
    graphs, num = points.shape[:2]
    ptr = torch.arange(0, graphs * num + 1, num)

    def toy(x: Tensor) -> Tensor:
        return torch.tanh(x @ z["inputs/toy_A"] + z["inputs/toy_b"])

    for group, key in (("O(3)", "o3"), ("SO(3)", "so3")):
        frames, found = pca_frames(points.flatten(0, 1), ptr, group=group)
        torch.testing.assert_close(found.origin, z["outputs/center"], **TOLERANCE)
        seen = (points - found.origin[:, None])[:, None] @ frames
        for g in range(graphs):
            assert same_set(frames[g], z[f"outputs/frames_{key}"][g])
        invariant = (toy(seen) @ z["inputs/toy_c"]).sum(2).mean(1)
        torch.testing.assert_close(invariant, z[f"outputs/invariant_{key}"], **TOLERANCE)
        equivariant = (toy(seen) @ z["inputs/toy_C"] @ frames.mT).mean(1)
        torch.testing.assert_close(
            equivariant + found.origin[:, None], z[f"outputs/equivariant_{key.replace('o', 'e')}"], **TOLERANCE
        )
        if group == "O(3)":
            torch.testing.assert_close(equivariant, z["outputs/equivariant_o3_no_center"], **TOLERANCE)
            for g in range(graphs):
                assert same_set(seen[g], z["outputs/framed_points_o3"][g])
                assert same_set(vectors[g] @ frames[g], z["outputs/framed_vectors_o3"][g])


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("planar", [False, True])
def test_faenet_frames_are_the_official_sets(golden: Path, index: int, planar: bool) -> None:
    _, z = read_case(golden, "faenet/frames")
    points, cell = z[f"inputs/points_{index}"], z[f"inputs/cell_{index}"]
    ptr = torch.tensor([0, len(points)])
    for group, method in (("O(3)", "all"), ("SO(3)", "se3-all")):
        frames, found = pca_frames(points, ptr, group=group, order="descending", planar=planar)
        key = f"outputs/{'2D' if planar else '3D'}_{method}"
        assert same_set(frames[0], z[f"{key}_rotations_{index}"])
        assert same_set((points - found.origin) @ frames[0], z[f"{key}_points_{index}"])
        assert same_set(cell @ frames[0], z[f"{key}_cell_{index}"])


@pytest.mark.parametrize("planar", [False, True])
def test_single_frame_turns_with_the_points_where_the_published_rule_does_not(planar: bool) -> None:
    published = []
    for seed in range(20):
        pos = cloud(seed)
        angle = torch.tensor(2.0 + seed).double()
        about_z = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]]).double()
        g = about_z if planar else turn(seed)
        for group in ("SO(3)", "O(3)"):
            views = []
            for points in (pos, pos @ g):
                frames, found = pca_frames(points, PTR9, group=group, signs="single", planar=planar)
                views.append((points - found.origin) @ frames[0, 0])
                if group == "SO(3)":
                    assert float(torch.linalg.det(frames[0, 0])) == pytest.approx(1)
            torch.testing.assert_close(views[0], views[1], rtol=0, atol=1e-11)
        signs = [
            torch.sign((p - p.mean(0)) @ (u := principal_axes(p, PTR9).axes[0]) * torch.sign(u.sum(0)))
            for p in (pos, pos @ g)
        ]
        published.append(torch.equal(*signs))
    assert not all(published)


def test_random_frame_is_one_of_all_and_repeats_with_its_generator() -> None:
    pos, ptr = torch.cat([cloud(k) for k in range(40)]), torch.arange(0, 361, 9)
    every, _ = pca_frames(pos, ptr)
    one, two = (pca_frames(pos, ptr, signs="random", generator=torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(one, two)
    which = (one == every).flatten(2).all(2)
    assert torch.equal(which.sum(1), torch.ones(40, dtype=torch.long))
    assert set(which.nonzero()[:, 1].tolist()) == set(range(8))


@pytest.mark.parametrize(("group", "planar"), [("O(3)", False), ("SO(3)", False), ("O(3)", True), ("SO(3)", True)])
def test_a_random_frame_turns_with_its_structure_by_the_same_draw(group: str, planar: bool) -> None:
    pos, ptr = torch.cat([cloud(k) for k in range(40)]), torch.arange(0, 361, 9)
    q = rotation_about_z(torch.tensor(2.0, dtype=torch.float64)) if planar else turn(5)

    def drawn(points: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        return pca_frames(points, ptr, group=group, signs="random", planar=planar, generator=generator)[0]

    torch.testing.assert_close(drawn(pos @ q.T), q @ drawn(pos), rtol=0, atol=1e-11)
    # the control: signs as the decomposition happens to give them do not turn along
    every, turned = (pca_frames(p, ptr, group=group, planar=planar)[0][:, 0] for p in (pos, pos @ q.T))
    assert float((turned - q @ every).abs().max()) > 0.1


def test_report_names_equal_axes_and_missing_dimensions() -> None:
    sets = {
        "generic": (cloud(0), 3, False),
        "tetrahedron": (torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]), 3, True),
        "square": (torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]), 2, True),
        "rectangle": (torch.tensor([[2.0, 1, 0], [-2, 1, 0], [2, -1, 0], [-2, -1, 0]]), 2, False),
        "line": (torch.tensor([[0.0, 0, 0], [1, 2, 3]]), 1, False),
        "point": (torch.ones(1, 3), 0, False),
    }
    pos = torch.cat([p.double() for p, _, _ in sets.values()])
    ptr = torch.tensor([0, *np.cumsum([len(p) for p, _, _ in sets.values()]).tolist()])
    found = principal_axes(pos, ptr)
    assert found.rank.tolist() == [rank for _, rank, _ in sets.values()]
    assert found.is_degenerate.tolist() == [bad for _, _, bad in sets.values()]
    assert float(found.gap[1]) < 1e-12 < 1e-3 < float(found.gap[0])


def test_axes_have_the_derivatives_of_finite_differences() -> None:
    probe = cloud(1, num=3)

    def value(pos: Tensor) -> Tensor:
        frames, _ = pca_frames(pos, PTR9, group="SO(3)", signs="single", differentiable=True)
        return (frames[0, 0] * probe).sum()

    pos = cloud(0).requires_grad_()
    assert torch.autograd.gradcheck(value, pos)
    assert torch.autograd.gradgradcheck(value, pos)
    frames, found = pca_frames(pos, PTR9)
    assert not frames.requires_grad
    assert found.origin.requires_grad


@pytest.mark.parametrize("name", list(symmetric_molecules()))
@pytest.mark.parametrize("planar", [False, True])
def test_derivatives_of_axes_are_finite_where_torch_divides_by_zero(name: str, planar: bool) -> None:
    atoms = symmetric_molecules()[name]
    pos = torch.tensor(atoms.positions, requires_grad=True)
    value = pca_average(pos, differentiable=True, planar=planar)
    (gradient,) = torch.autograd.grad(value, pos, create_graph=True)
    second = torch.autograd.grad(gradient.square().sum() + gradient.sum(), pos)[0]
    assert all(bool(torch.isfinite(t).all()) for t in (value, gradient, second))


def test_the_control_gives_nan_derivatives() -> None:
    # moments of inertia that are equal to the last bit, whatever the order of their sums
    pos = torch.cat([torch.eye(3), -torch.eye(3)]).double().requires_grad_()
    _, axes = torch.linalg.eigh(pos.T @ pos)
    (gradient,) = torch.autograd.grad((axes * cloud(0, 3)).sum(), pos)
    assert not bool(torch.isfinite(gradient).all())


def test_unknown_settings_are_refused() -> None:
    for settings, match in (
        ({"group": "E(3)"}, "unknown group"),
        ({"signs": "det"}, "unknown choice of signs"),
        ({"order": "random"}, "unknown order"),
    ):
        with pytest.raises(ConfigError, match=match):
            pca_frames(cloud(0), PTR9, **settings)


# robust frames


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
