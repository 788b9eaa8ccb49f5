"""Rows by an index in any order: right by loops, twice differentiable, and in a fixed order on a CUDA device."""

from __future__ import annotations

import pytest
import torch
from cuda_stand_in import on_cuda, unordered_sums
from torch import Tensor

from geomol.ops import gather_rows, sum_to_rows
from geomol.ops.indexed import _sorted_rows

INDEX = torch.tensor([3, 0, 3, 1, 3, 0])  # no 2, and none of the last row
NUM_ROWS = 5
shapes = pytest.mark.parametrize("shape", [(), (3,), (2, 3)])


def values(num: int, *shape: int) -> Tensor:
    return torch.randn(num, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@shapes
def test_rows_are_gathered_and_summed_by_their_index(shape: tuple[int, ...]) -> None:
    x, y = values(NUM_ROWS, *shape), values(len(INDEX), *shape)
    total = torch.zeros(NUM_ROWS, *shape, dtype=torch.float64)
    for value, row in zip(y.detach(), INDEX.tolist(), strict=True):
        total[row] += value
    assert torch.equal(gather_rows(x, INDEX), x[INDEX])
    assert torch.equal(sum_to_rows(y, INDEX, NUM_ROWS), total)


def test_no_values_make_empty_rows() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert torch.equal(sum_to_rows(torch.zeros(0, 2), none, 3), torch.zeros(3, 2))
    assert gather_rows(torch.zeros(3, 2), none).shape == (0, 2)


@pytest.mark.parametrize("index", [INDEX, INDEX[:0]])
def test_the_order_puts_each_row_between_its_bounds(index: Tensor) -> None:
    ptr, perm = _sorted_rows(index, NUM_ROWS)
    for row in range(NUM_ROWS):
        assert perm[ptr[row] : ptr[row + 1]].tolist() == (index == row).nonzero()[:, 0].tolist()


@shapes
def test_the_form_for_a_cuda_device_is_the_same_and_so_are_its_derivatives(shape: tuple[int, ...]) -> None:
    def both(x: Tensor) -> Tensor:
        return sum_to_rows(gather_rows(x, INDEX).sin(), INDEX.flip(0), NUM_ROWS)

    found = []
    for place in (lambda x: x, on_cuda):
        x = place(values(NUM_ROWS, *shape))
        (first,) = torch.autograd.grad(both(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        found.append((both(x).detach(), first.detach(), second))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there.inner, here, rtol=1e-13, atol=1e-13)


def test_on_a_cuda_device_no_sum_is_unordered() -> None:
    x = on_cuda(values(NUM_ROWS, 2))
    with unordered_sums() as found:
        (first,) = torch.autograd.grad(
            sum_to_rows(gather_rows(x, INDEX).sin(), INDEX, NUM_ROWS).square().sum(), x, create_graph=True
        )
        first.square().sum().backward()
        assert found() == []
        x[:2].index_select(0, INDEX[:1] - 3).sum().backward()  # the control
        assert found() == ["aten::index_add_"]
