"""Normals by local principal components, against surfaces whose normals are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from geomol.errors import ConfigError, InputError
from geomol.geometry import fibonacci_grid, pca_normals, random_rotations


def one(pos: Tensor) -> Tensor:
    return torch.tensor([0, len(pos)])


def degrees(a: Tensor, b: Tensor, *, signed: bool = True) -> Tensor:
    """Angle between unit vectors, or between the lines through them."""
    dot = (a * b).sum(1)
    return torch.linalg.cross(a, b).norm(dim=1).atan2(dot if signed else dot.abs()).rad2deg()


def torus(num: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points on a torus of radii 1 and 0.4, and its outward normals: a surface that is not star-shaped."""
    u, v = (
        2 * math.pi * torch.rand(2, num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).unbind()
    normal = torch.stack([u.cos() * v.cos(), u.sin() * v.cos(), v.sin()], 1)
    ring = torch.stack([u.cos(), u.sin(), torch.zeros_like(u)], 1)
    return ring + 0.4 * normal, normal


def test_a_plane_has_its_normal_to_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    rotation = random_rotations(1, generator=generator)[0]
    flat = torch.rand(200, 3, generator=generator, dtype=torch.float64)
    flat[:, 2] = 0
    normals = pca_normals(flat @ rotation.T + 100.0, one(flat), k=12)
    angle = degrees(normals.vectors, rotation[:, 2].expand(200, 3), signed=False)
    assert angle.max() < 1e-9
    assert normals.planarity.min() > 1 - 1e-9
    assert (
        normals.outwardness.abs().max() < 1e-9
    )  # the plane contains its centroid: the sign means nothing, and says so


def test_a_sphere_has_its_normals_within_the_stated_error() -> None:
    even = fibonacci_grid(2000).double()
    normals = pca_normals(3 * even + 7, one(even))
    assert degrees(normals.vectors, even).max() < 1.2
    drawn = torch.nn.functional.normalize(
        torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    error = degrees(pca_normals(drawn, one(drawn)).vectors, drawn)
    assert error.mean() < 1.5
    assert error.max() < 8.0
    # control: neighbourhoods that are too wide bend, so the figure is one of the method and not of the test
    assert degrees(pca_normals(drawn[:200], torch.tensor([0, 200]), k=60).vectors, drawn[:200]).mean() > error.mean()


def test_propagation_orients_a_torus_where_the_centroid_cannot() -> None:
    pos, true = torus(3000)
    propagated = pca_normals(pos, one(pos), orient="propagate")
    assert ((propagated.vectors * true).sum(1) > 0).all()
    outward = pca_normals(pos, one(pos), orient="outward")
    assert ((outward.vectors * true).sum(1) < 0).double().mean() > 0.2  # control: the inner half is wrong
    assert (outward.outwardness >= 0).all()
    assert torch.equal(outward.planarity, propagated.planarity)


def test_separate_parts_and_clouds_are_oriented_each_for_itself() -> None:
    even = fibonacci_grid(300).double()
    pos = torch.cat([even, even + 10.0, 2 * even])
    normals = pca_normals(pos, torch.tensor([0, 600, 900]), orient="propagate")
    signs = (normals.vectors * even.repeat(3, 1)).sum(1).sign().reshape(3, 300)
    assert (signs == signs[:, :1]).all()  # consistent in each part
    assert (signs == 1).all()


def test_normals_turn_with_the_cloud() -> None:
    pos, _ = torus(800)
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(2))[0]
    for orient in ("outward", "propagate"):
        still = pca_normals(pos, one(pos), orient=orient)
        turned = pca_normals(pos @ rotation.T - 3.0, one(pos), orient=orient)
        sure = (still.planarity > 1e-3) & (still.outwardness.abs() > 1e-6)
        torch.testing.assert_close(turned.vectors[sure], (still.vectors @ rotation.T)[sure], atol=1e-8, rtol=0)


def test_neighbourhoods_without_a_plane_say_so() -> None:
    line = torch.zeros(30, 3, dtype=torch.float64)
    line[:, 0] = torch.arange(30)
    assert pca_normals(line, one(line), k=5).planarity.max() == 0.0
    place = torch.ones(30, 3, dtype=torch.float64)
    normals = pca_normals(place, one(place), k=5)
    assert normals.planarity.max() == 0.0
    torch.testing.assert_close(normals.vectors.norm(dim=1), torch.ones(30, dtype=torch.float64))


def test_bad_input_is_named() -> None:
    pos = fibonacci_grid(20).double()
    with pytest.raises(InputError, match="cloud 1 has 2 points"):
        pca_normals(pos, torch.tensor([0, 18, 20]))
    with pytest.raises(InputError, match="cloud 0 has one point"):
        pca_normals(pos[:1], torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="unknown orientation"):
        pca_normals(pos, one(pos), orient="inward")
    pos[3] = float("nan")
    with pytest.raises(InputError, match="point 3 of cloud 0"):
        pca_normals(pos, one(pos))
