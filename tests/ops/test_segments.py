"""Segment reductions and row sums against loops over the segments."""

import itertools

import pytest
import torch

from geomol.ops import segment_index, segment_max, segment_mean, segment_softmax, segment_sum
from geomol.ops.rows import (
    has_torch_scatter,
    row_sum,
    row_sum_index_add,
    row_sum_segment_reduce,
    row_sum_slow,
    row_sum_torch_scatter,
)

PTR = torch.tensor([0, 3, 3, 4, 9])  # an empty segment, one of a single value
SHAPES = [(9,), (9, 2), (9, 2, 3)]


def values(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def segments(x):
    return [x[first:last] for first, last in itertools.pairwise(PTR.tolist())]


def test_segment_index_counts_the_segments():
    assert segment_index(PTR, 9).tolist() == [0, 0, 0, 2, 3, 3, 3, 3, 3]
    assert segment_index(torch.tensor([0]), 0).tolist() == []


@pytest.mark.parametrize("shape", SHAPES)
def test_segment_sum_and_mean_agree_with_loops(shape):
    x = values(*shape)
    total = torch.stack([part.sum(0) for part in segments(x)])
    mean = torch.stack([part.sum(0) / max(len(part), 1) for part in segments(x)])
    torch.testing.assert_close(segment_sum(x, PTR), total, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(segment_mean(x, PTR), mean, rtol=1e-14, atol=1e-14)
    assert (segment_sum(x, PTR)[1] == 0).all()
    assert not torch.allclose(total, mean)


@pytest.mark.parametrize("shape", SHAPES)
def test_segment_max_agrees_with_a_loop(shape):
    x = values(*shape)
    lowest = torch.full(shape[1:], -torch.inf, dtype=torch.float64)
    largest = torch.stack([part.amax(0) if len(part) else lowest for part in segments(x)])
    assert torch.equal(segment_max(x, PTR), largest)


def test_segment_max_shares_its_gradient_between_equal_maxima():
    x = torch.tensor([1.0, 5.0, 5.0, 2.0], requires_grad=True)
    segment_max(x, torch.tensor([0, 3, 4])).sum().backward()
    assert x.grad.tolist() == [0.0, 0.5, 0.5, 1.0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_segment_softmax_agrees_with_a_loop_and_does_not_overflow(shape, offset):
    x = values(*shape)
    expected = torch.cat([torch.softmax(part, 0) for part in segments(x)])
    found = segment_softmax(x + offset, PTR)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(segment_sum(found, PTR)[[0, 2, 3]], torch.ones(3, *shape[1:], dtype=torch.float64))


@pytest.mark.parametrize("function", [segment_sum, segment_mean, segment_max, segment_softmax])
@pytest.mark.parametrize("shape", SHAPES)
def test_segment_derivatives_agree_with_finite_differences_twice(function, shape):
    x = values(*shape)
    used = (lambda x: function(x, PTR)[[0, 2, 3]]) if function is segment_max else (lambda x: function(x, PTR))
    assert torch.autograd.gradcheck(used, (x,))
    assert torch.autograd.gradgradcheck(used, (x,))


@pytest.mark.parametrize("function", [segment_sum, segment_mean, segment_max, segment_softmax])
def test_no_values_make_empty_segments(function):
    out = function(torch.zeros(0, 2), torch.tensor([0, 0, 0]))
    assert out.shape == ((0, 2) if function is segment_softmax else (2, 2))
    assert not out.isnan().any()


@pytest.mark.parametrize("function", [segment_sum, segment_mean, segment_max, segment_softmax])
def test_segments_repeat_bit_for_bit(function):
    x, ptr = values(5000, 4), torch.arange(0, 5001, 50)
    first = function(x, ptr)
    assert all(torch.equal(first, function(x, ptr)) for _ in range(5))


@pytest.mark.parametrize("way", [row_sum, row_sum_index_add, row_sum_segment_reduce, row_sum_torch_scatter])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ["sorted", "permuted", "empty"])
def test_every_row_sum_agrees_with_the_slow_one(way, shape, order):
    if way is row_sum_torch_scatter and not has_torch_scatter():
        pytest.skip("torch-scatter is not installed")
    x, ptr = values(*shape).detach(), PTR
    index = segment_index(PTR, 9)
    perm = None
    if order == "permuted":
        index = index[torch.randperm(9, generator=torch.Generator().manual_seed(1))]
        perm = torch.argsort(index, stable=True)
    if order == "empty":
        x, index, ptr = x[:0], index[:0], torch.zeros(4, dtype=torch.int64)
    expected = row_sum_slow(x, index, ptr, perm)
    torch.testing.assert_close(way(x, index, ptr, perm), expected, rtol=1e-14, atol=1e-14)
    if order != "empty":
        assert expected.abs().max() > 0.1
