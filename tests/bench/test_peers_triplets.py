"""The triplets that DimeNet++ is given in place of those of torch-sparse."""

import itertools

import torch

from tests.peers.directional import triplets


def test_triplets_are_those_of_a_loop_over_all_pairs_of_pairs():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.tensor([[j, i] for j, i in itertools.permutations(range(7), 2)]).T
    pairs = pairs[:, torch.rand(pairs.shape[1], generator=generator) < 0.5]  # in no order of receivers, and not mutual
    expected = {
        (i, j, k, before, after)
        for after, (j, i) in enumerate(pairs.T.tolist())
        for before, (k, to) in enumerate(pairs.T.tolist())
        if to == j and k != i
    }
    receivers, senders, *columns = triplets(pairs, 8)  # the last node has no pairs
    assert torch.equal(torch.stack([senders, receivers]), pairs)
    found = list(zip(*(column.tolist() for column in columns), strict=True))
    assert set(found) == expected
    assert len(found) == len(expected) > 20


def test_no_pairs_no_triplets():
    assert [len(column) for column in triplets(torch.empty(2, 0, dtype=torch.long), 3)] == [0] * 7
