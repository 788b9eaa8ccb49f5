"""Pairs of atoms and the scores of their bonds."""

from __future__ import annotations

import itertools

import pytest
import torch

from geomol.diffusion import BondHead, pairs_of


@pytest.mark.parametrize("sizes", [[3, 1, 4], [1], [1, 1], [2, 5], [6]])
def test_pairs_are_those_of_a_loop(sizes: list[int]) -> None:
    bounds = [0, *itertools.accumulate(sizes)]
    expected = [pair for a, b in itertools.pairwise(bounds) for pair in itertools.combinations(range(a, b), 2)]
    assert [tuple(pair) for pair in pairs_of(torch.tensor(bounds)).T.tolist()] == expected


def head() -> BondHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BondHead(5).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(4, 5, dtype=torch.float64, generator=g),
        torch.randn(4, 3, dtype=torch.float64, generator=g),
        pairs_of(torch.tensor([0, 4])),
    )


def test_scores_do_not_depend_on_which_atom_comes_first_nor_on_the_pose() -> None:
    feats, pos, pairs = inputs()
    made = head()
    scores = made(feats, pos, pairs)
    assert scores.shape == (6, 4)
    assert torch.equal(made(feats, pos, pairs.flip(0)), scores)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    assert torch.allclose(made(feats, pos @ turn.T + 3, pairs), scores, atol=1e-12)
    assert not torch.allclose(made(feats, 1.2 * pos, pairs), scores, atol=1e-4), "distances count"
    assert not torch.allclose(made(feats.flip(0), pos, pairs), scores, atol=1e-4), "atoms count"


def test_coincident_atoms_have_finite_gradients() -> None:
    feats, pos, pairs = inputs()
    pos = torch.zeros_like(pos).requires_grad_()
    (gradient,) = torch.autograd.grad(head()(feats, pos, pairs).sum(), pos)
    assert bool(gradient.isfinite().all())


def test_the_head_can_learn_orders_from_distances_alone() -> None:
    """Features that say nothing; thresholds as between carbon atoms, in units of 1.72 Å."""
    g = torch.Generator().manual_seed(1)
    made = head()
    length = 0.6 + 0.5 * torch.rand(300, generator=g, dtype=torch.float64)
    pos = torch.zeros(600, 3, dtype=torch.float64)
    pos[1::2, 0] = length
    pairs = torch.arange(600).view(300, 2).T
    orders = (length[:, None] < torch.tensor([0.95, 0.81, 0.715], dtype=torch.float64)).sum(1)
    optimiser = torch.optim.Adam(made.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        scores = made(torch.ones(600, 5, dtype=torch.float64), pos, pairs)
        torch.nn.functional.cross_entropy(scores, orders).backward()
        optimiser.step()
    assert float((scores.argmax(1) == orders).double().mean()) > 0.93
    assert len(orders.unique()) == 4
