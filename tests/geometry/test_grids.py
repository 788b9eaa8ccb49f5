"""Orientation grids integrate harmonics as their names promise, and rotations are rotations."""

from __future__ import annotations

import pytest
import torch

from geomol.errors import ConfigError
from geomol.geometry import design_residual, orientation_grid, random_rotations
from geomol.geometry.grids import icosahedral_rotations, octahedral_rotations

STRENGTH = {
    "octahedral": (6, 3),
    "icosahedral": (12, 5),
    "dodecahedral": (20, 5),
    "design24": (24, 7),
    "design60": (60, 9),
}


@pytest.mark.parametrize("name", STRENGTH)
def test_a_design_of_strength_t_averages_all_harmonics_up_to_t_to_zero(name: str) -> None:
    size, strength = STRENGTH[name]
    grid = orientation_grid(name)
    assert grid.shape == (size, 3)
    torch.testing.assert_close(grid.norm(dim=1), torch.ones(size, dtype=torch.float64))
    assert torch.pdist(grid).min() > 0.4
    assert max(float(design_residual(grid, degree).abs()) for degree in range(1, strength + 1)) < 1e-14
    assert design_residual(grid, strength + 1).abs() > 1e-3


def test_design_residual_sees_an_uneven_grid() -> None:
    """The control: one vertex moved by a degree is noticed."""
    grid = orientation_grid("icosahedral")
    grid[0] = torch.nn.functional.normalize(grid[0] + 0.017 * grid[1], dim=0)
    assert design_residual(grid, 2) > 1e-8


def test_a_monomial_averages_to_its_integral_over_the_sphere() -> None:
    """x²y²z² has mean 1/105, degree 6: exact from strength 6 on."""
    mean = orientation_grid("design24").square().prod(dim=1).mean()
    torch.testing.assert_close(mean, torch.tensor(1 / 105, dtype=torch.float64))
    assert (orientation_grid("icosahedral").square().prod(dim=1).mean() - 1 / 105).abs() > 1e-4


@pytest.mark.parametrize(("group", "order"), [(octahedral_rotations(), 24), (icosahedral_rotations(), 60)])
def test_point_groups_are_closed_sets_of_rotations(group: torch.Tensor, order: int) -> None:
    assert len(group) == order
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order, dtype=torch.float64))
    products = torch.einsum("aij,bjk->abik", group, group).reshape(-1, 1, 9)
    nearest = torch.cdist(products.view(1, -1, 9), group.reshape(1, -1, 9))[0].min(dim=1).values
    assert nearest.max() < 1e-6


def test_fibonacci_grids_have_any_size_and_nearly_vanishing_mean() -> None:
    for size in (2, 7, 20, 64):
        grid = orientation_grid(f"fibonacci:{size}")
        assert grid.shape == (size, 3)
    assert orientation_grid("fibonacci:64").mean(dim=0).norm() < 0.01


@pytest.mark.parametrize("name", ["icosaedral", "fibonacci:1", "fibonacci:", "octahedral:6"])
def test_an_unknown_grid_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"known: .*icosahedral"):
        orientation_grid(name)


def test_random_rotations_are_uniform_and_seeded() -> None:
    rotations = random_rotations(20_000, generator=torch.Generator().manual_seed(1))
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(rotations @ rotations.mT, eye.expand(20_000, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(20_000, dtype=torch.float64))
    # Haar measure: entries have mean 0, mean square 1/3; the trace has mean square 1
    assert rotations.mean(0).abs().max() < 0.02
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < 0.02
    trace = rotations.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(trace.square().mean()) - 1) < 0.05
    again = random_rotations(20_000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rotations, again)
