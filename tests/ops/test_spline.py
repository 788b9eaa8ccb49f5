"""Tables of cubic splines: exact for cubics, of fourth order otherwise, twice continuously differentiable."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from geomol.errors import ConfigError
from geomol.ops import SplineGrid

BOUNDS = {1: [(0.3, 2.1)], 2: [(-1.0, 2.0), (0.0, 1.7)]}


def points(axes, count=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(BOUNDS[axes], dtype=torch.float64).unbind(1)
    return (low + (high - low) * torch.rand(count, axes, dtype=torch.float64, generator=generator)).requires_grad_()


def wave(p):
    """Two smooth functions."""
    x, y = p[:, 0], p[:, -1]
    return torch.stack([torch.sin(1.3 * x) * torch.cos(0.7 * y), 0.1 * (x - 0.3 * y**2).exp()], dim=1)


def read(grid, function, p):
    return grid.places(p).read(grid.table(function))


@pytest.mark.parametrize("axes", [1, 2])
def test_polynomials_of_third_degree_are_exact(axes):
    def cubic(p):
        return torch.stack([1 + p.sum(1) ** 3, p[:, 0] ** 3 * p[:, -1] ** (3 * (axes - 1))], dim=1)

    p = points(axes)
    torch.testing.assert_close(read(SplineGrid.over(BOUNDS[axes], 0.25), cubic, p), cubic(p), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("axes", [1, 2])
def test_errors_fall_with_the_fourth_and_third_power_of_the_spacing(axes):
    errors = []
    for spacing in (0.2, 0.1, 0.05):
        p = points(axes)
        values, exact = read(SplineGrid.over(BOUNDS[axes], spacing), wave, p), wave(p)
        slopes, expected = (torch.autograd.grad(v.sum(), p)[0] for v in (values, exact))
        errors.append((float((values - exact).detach().abs().max()), float((slopes - expected).abs().max())))
    for (value, slope), (finer_value, finer_slope) in itertools.pairwise(errors):
        assert 12 < value / finer_value < 20
        assert 6 < slope / finer_slope < 10


@pytest.mark.parametrize("axes", [1, 2])
def test_derivatives_of_any_order_are_those_of_the_spline(axes):
    grid = SplineGrid.over(BOUNDS[axes], 0.31)
    table = grid.table(wave)
    p = points(axes, 6)
    assert gradcheck(lambda p: grid.places(p).read(table), p)
    assert gradgradcheck(lambda p: grid.places(p).read(table), p)


def derivatives_beside_a_knot(side):
    """Value and three derivatives a hair before or behind a knot."""
    grid = SplineGrid((0.0,), 0.5, (6,))
    table = torch.randn(grid.num_rows, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.tensor([[1.5 + side * 1e-9]], dtype=torch.float64, requires_grad=True)
    found = [grid.places(x).read(table).sum()]
    for _ in range(3):
        found.append(torch.autograd.grad(found[-1], x, create_graph=True)[0].sum())
    return [float(value.detach()) for value in found]


def test_two_derivatives_are_continuous_and_the_third_is_not():
    before, behind = derivatives_beside_a_knot(-1), derivatives_beside_a_knot(1)
    for one, other in zip(before[:3], behind[:3], strict=True):
        assert math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
    assert abs(before[3] - behind[3]) > 0.1  # control: else the comparison above would say nothing


def test_points_outside_are_taken_to_the_edge():
    grid = SplineGrid.over(BOUNDS[2], 0.3)
    table = grid.table(wave)
    edge = [-1.0, 0.3 * grid.counts[1]]
    outside, corner = (torch.tensor([p], dtype=torch.float64) for p in ([-5.0, 9.0], edge))
    torch.testing.assert_close(grid.places(outside).read(table), grid.places(corner).read(table))


def test_a_box_is_covered_and_its_first_axis_exactly():
    grid = SplineGrid.over([(-1.0, 1.0), (0.0, 0.5)], 0.3)
    assert grid.counts[0] * grid.spacing == pytest.approx(2.0)
    assert grid.spacing <= 0.3
    assert grid.counts[1] * grid.spacing >= 0.5


@pytest.mark.parametrize(("bounds", "spacing"), [([(0.0, 1.0)], 0.0), ([(0.0, 1.0)], math.inf), ([(1.0, 1.0)], 0.1)])
def test_empty_boxes_and_spacings_are_refused(bounds, spacing):
    with pytest.raises(ConfigError, match="a box and a spacing"):
        SplineGrid.over(bounds, spacing)
