"""Padded blocks of structures: nothing is lost, nothing is invented."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from geomol.nn.dense import DenseLayout

SIZES = [[3, 5, 1, 4], [1], [7], [2, 2, 2], [1, 1], [1, 9]]


def bounds(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(sizes)])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_padding_and_flattening_return_every_bit(sizes: list[int], shape: tuple[int, ...]) -> None:
    layout = DenseLayout.of(bounds(sizes))
    values = torch.randn(sum(sizes), *shape, dtype=torch.float64)
    blocks = layout.pad(values)
    assert blocks.shape == (len(sizes), max(sizes), *shape)
    assert torch.equal(layout.flatten(blocks), values)
    # the witness: one structure after the other
    first = 0
    for block, size in zip(blocks, sizes, strict=True):
        assert torch.equal(block[:size], values[first : first + size])
        assert not block[size:].any()
        first += size


@pytest.mark.parametrize("sizes", SIZES)
def test_pairs_are_all_ordered_pairs_of_two_nodes(sizes: list[int]) -> None:
    layout = DenseLayout.of(bounds(sizes))
    pairs = layout.pairs()
    assert pairs.sum((1, 2)).tolist() == [n * (n - 1) for n in sizes]
    for block, size in zip(pairs, sizes, strict=True):
        assert torch.equal(block[:size, :size], ~torch.eye(size, dtype=torch.bool))
    assert layout.present.sum(1).tolist() == sizes


def test_what_stands_in_padding_is_dropped() -> None:
    layout = DenseLayout.of(bounds([2, 3]))
    blocks = layout.pad(torch.arange(5.0))
    spoilt = torch.where(layout.present, blocks, torch.nan)
    assert torch.equal(layout.flatten(spoilt), torch.arange(5.0))


@pytest.mark.parametrize("sizes", [[2, 2], [1, 3]])
def test_values_that_are_not_contiguous_are_padded_too(sizes: list[int]) -> None:
    values = torch.randn(3, 4).T
    assert torch.equal(DenseLayout.of(bounds(sizes)).flatten(DenseLayout.of(bounds(sizes)).pad(values)), values)


@pytest.mark.parametrize("sizes", [[2, 2], [1, 3]])
def test_gradients_pass_both_ways(sizes: list[int]) -> None:
    layout = DenseLayout.of(bounds(sizes))
    values = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: layout.flatten(layout.pad(v).sin()), (values,))
