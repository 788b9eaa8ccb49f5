"""Frames of principal axes against the published ones, how they turn, their derivatives and their faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from geometry.frame_averages import cloud, pca_average, turn
from torch import Tensor

from geomol.checks import symmetric_molecules
from geomol.errors import ConfigError
from geomol.geometry import rotation_about_z
from geomol.geometry.frames import pca_frames, principal_axes

TOLERANCE = {"rtol": 1e-8, "atol": 1e-8}
PTR9 = torch.tensor([0, 9])


def read_case(golden: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with np.load(golden / f"{name}.npz", allow_pickle=False) as z:
        return json.loads((golden / f"{name}.json").read_text()), {k: torch.from_numpy(z[k]) for k in z.files}


def same_set(a: Tensor, b: Tensor, atol: float = 1e-8) -> bool:
    """Whether two lists of arrays agree in some order, one to one."""
    equal = ((a[:, None] - b[None]).abs().flatten(2) < atol).all(-1)
    return a.shape == b.shape and bool((equal.sum(0) == 1).all()) and bool((equal.sum(1) == 1).all())


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
