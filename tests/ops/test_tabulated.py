"""The tabulated convolution: equal to the sum over full arrays in C and without, differentiable three times."""

import pytest
import torch
from jaxtyping import TypeCheckError

from geomol.ops import SplineGrid, tabulated_conv
from tests.ops.test_fused_separable import N, Pairs

GRIDS = {1: SplineGrid.over([(0.0, 2.0)], 0.25), 2: SplineGrid.over([(-2.0, 2.0), (0.0, 2.0)], 0.5)}


def inputs(axes, channels=3, dtype=torch.float64, orientations=4):
    generator = torch.Generator().manual_seed(channels)

    def some(*shape):
        return torch.rand(*shape, dtype=dtype, generator=generator)

    x = (some(N, orientations, channels) - 0.5).requires_grad_()
    points = (some(7, orientations, axes) * 2 - (torch.tensor([2.0, 0.0], dtype=dtype) if axes == 2 else 0)).detach()
    table = some(GRIDS[axes].num_rows, channels) - 0.5
    return x, points.requires_grad_(), some(7).requires_grad_(), table


def plain(x, points, window, table, grid, pairs):
    """Every array in full."""
    kernel = grid.places(points.flatten(0, 1)).read(table).view(-1, *x.shape[1:]) * window[:, None, None]
    return x.new_zeros(len(pairs.edge_ptr) - 1, *x.shape[1:]).index_add(0, pairs.dst, x[pairs.src] * kernel)


def derivatives(function, args, grid, pairs):
    """Value, and first to third derivatives of a scalar of it."""
    *own, table = args
    out = function(*own, table, grid, pairs)
    first = torch.autograd.grad(out.sin().sum(), own, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), own, create_graph=True)
    third = torch.autograd.grad(sum(g.sin().sum() for g in second), own)
    return [out, *first, *second, *third]


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 8, 21])
def test_value_and_derivatives_are_those_of_full_arrays(way, axes, channels):
    pairs, args = Pairs(), inputs(axes, channels)
    for got, expected in zip(
        derivatives(tabulated_conv, args, GRIDS[axes], pairs), derivatives(plain, args, GRIDS[axes], pairs), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("channels", [5, 16, 40])
def test_single_precision_rounds_and_no_more(way, channels):
    pairs, args = Pairs(), inputs(2, channels)
    low = [a.detach().float().requires_grad_(a.requires_grad) for a in args]
    for got, expected in zip(
        derivatives(tabulated_conv, low, GRIDS[2], pairs)[:4], derivatives(plain, args, GRIDS[2], pairs), strict=False
    ):
        torch.testing.assert_close(got.double(), expected, rtol=2e-5, atol=2e-5)


def test_points_on_and_outside_the_edge_are_read_inside_the_table(way):
    pairs, (x, points, window, table) = Pairs(), inputs(2)
    with torch.no_grad():
        points[0], points[1], points[2, 0] = 2.0, -7.0, 1e30
    args = x, points, window, table
    torch.testing.assert_close(tabulated_conv(*args, GRIDS[2], pairs), plain(*args, GRIDS[2], pairs))


def test_no_number_in_no_number_out(way):
    x, points, window, table = inputs(2)
    with torch.no_grad():
        points[0, 0, 0] = torch.nan
    out = tabulated_conv(x, points, window, table, GRIDS[2], Pairs())
    assert out[0, 0].isnan().all()
    assert not out[1:].isnan().any()


def test_edges_in_32_bits_and_numbers_of_two_kinds(way):
    x, points, window, table = inputs(2)
    expected = tabulated_conv(x, points, window, table, GRIDS[2], Pairs())
    pairs = Pairs()
    pairs.src, pairs.dst = pairs.src.int(), pairs.dst.int()
    found = tabulated_conv(x.float(), points, window.float(), table, GRIDS[2], pairs)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert tabulated_conv(x[:0], points[:0], window[:0], table, GRIDS[2], Pairs((), (), 0)).shape == (0, *x.shape[1:])


def test_edges_between_nodes_that_are_not_there_are_refused(way):
    x, points, window, table = inputs(2)
    for src, dst in ((5, 0), (-1, 0), (0, 5)):
        pairs = Pairs()
        pairs.src[3], pairs.dst[3] = src, dst
        with pytest.raises((IndexError, RuntimeError)):
            tabulated_conv(x.detach(), points.detach(), window.detach(), table, GRIDS[2], pairs)


def test_arrays_that_do_not_fit_are_refused():
    x, points, window, table = inputs(2)
    for change in ({"table": table[:-1]}, {"table": table[:, :-1]}, {"points": points[:-1]}, {"window": window[:-1]}):
        given = {"x": x, "points": points, "window": window, "table": table, **change}
        with pytest.raises((ValueError, TypeCheckError)):  # the latter where shapes are checked at run time, as here
            tabulated_conv(**given, grid=GRIDS[2], edges=Pairs())


@pytest.mark.parametrize("axes", [1, 2])
def test_operators_are_registered_as_pytorch_wants_them(axes):
    pairs, (x, points, window, table) = Pairs(), inputs(axes)
    grid = GRIDS[axes]
    place = (list(grid.start), grid.spacing, list(grid.counts))
    pair = (pairs.src, pairs.send_ptr, pairs.send_perm, pairs.dst, pairs.edge_ptr, None)
    torch.library.opcheck(torch.ops.geomol.tabulated_conv.default, (x, points, window, table, *place, *pair))
    y = torch.rand(x.shape, dtype=x.dtype).requires_grad_()
    torch.library.opcheck(torch.ops.geomol.tabulated_grads.default, (x, y, points, window, table, *place, *pair))


def test_the_same_bits_every_time(way):
    args = inputs(2, 21, torch.float32)
    first = derivatives(tabulated_conv, args, GRIDS[2], Pairs())[:4]
    for _ in range(5):
        again = derivatives(tabulated_conv, args, GRIDS[2], Pairs())[:4]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
