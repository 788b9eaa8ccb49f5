"""Sampling of triangle meshes, against areas and normals known in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch

from geomol.errors import ConfigError, InputError
from geomol.geometry import Mesh, area_vectors, random_rotations, sample_surface


def box(size: tuple[float, float, float]) -> Mesh:
    """A closed box about the origin, wound outward, two triangles a side."""
    corners = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=3)), dtype=torch.float64)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return Mesh(corners * torch.tensor(size, dtype=torch.float64), torch.tensor(faces))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_area_vectors_of_a_closed_box_cancel_and_have_its_area() -> None:
    vectors = area_vectors(box((1.0, 2.0, 3.0)))
    torch.testing.assert_close(vectors.sum(0), torch.zeros(3, dtype=torch.float64))
    assert vectors.norm(dim=1).sum().item() == pytest.approx(22.0)


def test_points_lie_on_the_side_that_their_normal_says_and_normals_point_out() -> None:
    sides = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    sample = sample_surface(box((1.0, 2.0, 3.0)), 500, generator=seeded())
    torch.testing.assert_close((sample.points * sample.normals).sum(1), (sample.normals.abs() * sides / 2).sum(1))
    assert (sample.points.abs() <= sides / 2 + 1e-12).all()
    torch.testing.assert_close(sample.normals.norm(dim=1), torch.ones(500, dtype=torch.float64))


def test_points_spread_by_area_and_evenly_within_a_triangle() -> None:
    sample = sample_surface(box((1.0, 2.0, 3.0)), 40_000, generator=seeded())
    shares = sample.normals.abs().mean(0)
    expected = torch.tensor([6.0, 3.0, 2.0], dtype=torch.float64) / 11
    assert (shares - expected).abs().max() < 4 * (0.25 / 40_000) ** 0.5
    # moments of the uniform distribution over a face of 2 × 3: control for the square root in the formula
    side = sample.points[sample.normals[:, 0] > 0.5]
    assert side.mean(0)[1:].abs().max() < 0.03
    torch.testing.assert_close(
        side.square().mean(0)[1:], torch.tensor([4 / 12, 9 / 12], dtype=torch.float64), rtol=0.03, atol=0
    )


def test_a_triangle_without_area_is_never_drawn() -> None:
    mesh = box((1.0, 1.0, 1.0))
    flat = torch.tensor([[0, 0, 1], [2, 2, 2]])
    sample = sample_surface(Mesh(mesh.vertices, torch.cat([flat, mesh.faces, flat])), 2000, generator=seeded())
    assert sample.face.min() >= 2
    assert sample.face.max() <= 13
    assert sample.normals.isfinite().all()


def test_the_same_seed_gives_the_same_points_and_they_turn_with_the_mesh() -> None:
    mesh = box((1.0, 2.0, 3.0))
    first = sample_surface(mesh, 100, generator=seeded(4))
    assert torch.equal(first.points, sample_surface(mesh, 100, generator=seeded(4)).points)
    assert not torch.equal(first.points, sample_surface(mesh, 100, generator=seeded(5)).points)
    rotation = random_rotations(1, generator=seeded())[0]
    turned = sample_surface(Mesh(mesh.vertices @ rotation.T, mesh.faces), 100, generator=seeded(4))
    torch.testing.assert_close(turned.points, first.points @ rotation.T)
    torch.testing.assert_close(turned.normals, first.normals @ rotation.T)


def test_a_mesh_without_surface_is_refused() -> None:
    mesh = box((1.0, 1.0, 1.0))
    for faces in (mesh.faces[:0], torch.tensor([[0, 0, 1]])):
        with pytest.raises(InputError, match="no surface to sample"):
            sample_surface(Mesh(mesh.vertices, faces), 10, generator=seeded())
    with pytest.raises(ConfigError, match="not a count"):
        sample_surface(mesh, 0, generator=seeded())
