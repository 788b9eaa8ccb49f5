"""What is minimised: nought for a perfect estimate, weights, bonds only at low noise, and the coupling of noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cuda_stand_in import on_cuda, unordered_sums
from scipy.stats import kstest
from torch import Tensor, nn

from geomol.diffusion import (
    Clean,
    Cloud,
    Denoiser,
    Flow,
    Karras,
    LossWeights,
    Variational,
    fit_backbone,
    gaussian_cloud,
    loss_terms,
    optimal_transport,
    pairs_of,
    variational_terms,
)
from geomol.diffusion.levels import Levels
from geomol.diffusion.likelihood import kl_prior
from geomol.geometry import random_rotations
from geomol.graph import Graph
from geomol.models import Features, Symmetry
from geomol.symmetry import build_backbone

PTR = torch.tensor([0, 3, 4, 9])
WEIGHTS = LossWeights(types=0.5, bonds=0.25, bonds_below=0.4)


def generators(first: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + k) for k in range(3)]


def cloud(seed: int, num: int = 3) -> Cloud:
    return gaussian_cloud(PTR, num, generators(seed), dtype=torch.float64)


def molecules() -> Clean:
    types = torch.tensor([0, 1, 2, 1, 0, 0, 2, 1, 2])
    feats = torch.nn.functional.one_hot(types, 3).double() * 0.25
    pairs = pairs_of(PTR)
    return Clean(Cloud(cloud(0).pos, feats, PTR), types, pairs, torch.arange(pairs.shape[1]) % 4)


class Knowing(nn.Module):
    """Knows the clean structure, up to an offset, and the elements."""

    def __init__(self, clean: Clean, noise: Cloud, level: Tensor, offset: Tensor, *, hidden: int = 0) -> None:
        super().__init__()
        self.cutoff, self.config = math.inf, {}
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=True)
        s = level[clean.cloud.batch][:, None]
        y = clean.cloud.plus(noise.scaled(level))
        target = clean.cloud.pos + offset
        self.moved = (target - y.pos / (1 + s**2)) * (1 + s**2).sqrt() / s
        logits = torch.nn.functional.one_hot(clean.types, 3).double() * 50
        self.said = torch.cat([logits, torch.ones(len(logits), hidden, dtype=torch.float64)], dim=1)

    def forward(self, graph: Graph) -> Features:
        return Features(self.said, self.moved[:, None])


def knowing(
    offset: Tensor, level: Tensor, *, levels: Levels | None = None, bonds: int = 0
) -> tuple[Denoiser, Clean, Cloud]:
    clean, noise = molecules(), cloud(50)
    made = Denoiser(
        Knowing(clean, noise, level, offset, hidden=bonds),
        elements=[1, 6, 8],
        levels=levels or Karras(),
        bond_channels=bonds,
    ).double()
    return made, clean, noise


LEVEL = torch.tensor([0.1, 1.0, 6.0], dtype=torch.float64)


def test_a_perfect_estimate_costs_nothing() -> None:
    made, clean, noise = knowing(torch.zeros(9, 3, dtype=torch.float64), LEVEL)
    terms = loss_terms(made, clean, LEVEL, noise, WEIGHTS)
    assert terms.positions.max() < 1e-20
    assert terms.types.max() < 1e-15
    assert not terms.bonds.any()


@pytest.mark.parametrize("levels", [Karras(), Flow()], ids=lambda x: type(x).__name__)
def test_an_error_of_positions_costs_its_mean_square_times_the_weight_of_the_level(levels: Levels) -> None:
    offset = cloud(80).pos * 0.1
    made, clean, noise = knowing(offset, LEVEL, levels=levels)
    terms = loss_terms(made, clean, LEVEL, noise, WEIGHTS)
    expected = [float(part.square().mean()) for part in offset.split([3, 1, 5])]
    assert torch.allclose(terms.positions, levels.weight(LEVEL) * torch.tensor(expected, dtype=torch.float64))
    by_hand = terms.positions.mean() + 0.5 * terms.types.mean() + 0.25 * terms.bonds.mean()
    assert torch.allclose(terms.total(WEIGHTS), by_hand)


def test_bonds_are_asked_for_at_low_noise_only_and_by_pair() -> None:
    made, clean, noise = knowing(torch.zeros(9, 3, dtype=torch.float64), LEVEL, bonds=4)
    terms = loss_terms(made, clean, LEVEL, noise, WEIGHTS)
    y = clean.cloud.plus(noise.scaled(LEVEL))
    logits = made.bond_logits(made(y, LEVEL), clean.pairs).detach()
    each = torch.nn.functional.cross_entropy(logits, clean.orders, reduction="none")
    assert float(terms.bonds[0].detach()) == pytest.approx(float(each[:3].sum()) / 3)
    assert terms.bonds[1:].tolist() == [0.0, 0.0]
    every = loss_terms(made, clean, LEVEL, noise, LossWeights(bonds_below=10.0))
    assert float(every.bonds[2].detach()) == pytest.approx(float(each[3:].sum()) / 5)
    assert float(every.bonds[1].detach()) == 0.0, "a single atom has no pairs"
    assert not loss_terms(made, clean, LEVEL, noise, LossWeights(bonds=0.0)).bonds.any()


def test_sums_over_pairs_and_their_derivatives_are_ordered_on_a_cuda_device() -> None:
    made, clean, noise = knowing(torch.zeros(9, 3, dtype=torch.float64), LEVEL, bonds=4)
    said, terms = made.backbone.said.requires_grad_(), []
    for place in (lambda x: x, on_cuda):
        made.backbone.said = place(said)
        there = replace(clean, cloud=clean.cloud.replace(place(clean.cloud.pos), place(clean.cloud.feats)))
        with unordered_sums() as unordered:
            loss = loss_terms(made, there, LEVEL, noise, WEIGHTS).bonds.sum()
            (gradient,) = torch.autograd.grad(loss, made.backbone.said)
            assert unordered() == []
        terms += [loss.detach(), gradient]
    assert terms[0] > 0
    assert terms[1].any()
    torch.testing.assert_close(terms[2].inner, terms[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(terms[3].inner, terms[1], rtol=1e-12, atol=1e-14)


def tiny(num_types: int = 3, **settings: object) -> Denoiser:
    config = fit_backbone(
        {"name": "conditioned_egnn", "channels": 8, "pair_channels": 4, "num_layers": 1, "num_vectors": 2},
        num_types=num_types,
        self_conditioning=bool(settings.get("self_conditioning", True)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Denoiser(
            build_backbone(config), elements=[1, 6, 8][:num_types], **{"levels": Karras(), **settings}
        ).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def test_self_conditioning_shows_the_first_estimate_without_a_gradient() -> None:
    made, clean, noise = tiny(), molecules(), cloud(50)
    plain = loss_terms(made, clean, LEVEL, noise, WEIGHTS)
    shown = loss_terms(made, clean, LEVEL, noise, WEIGHTS, self_condition=True)
    y = clean.cloud.plus(noise.scaled(LEVEL))
    estimate = made(y, LEVEL, earlier=made(y, LEVEL))
    errors = (estimate.clean.pos - clean.cloud.pos).square().mean(1).split([3, 1, 5])
    expected = made.levels.weight(LEVEL) * torch.stack([e.mean() for e in errors])
    assert torch.allclose(shown.positions, expected)
    assert not torch.allclose(shown.positions, plain.positions, rtol=1e-4)


@pytest.mark.parametrize("types", ["cross_entropy", "gaussian"])
def test_points_without_elements_are_learned_by_position_alone(types: str) -> None:
    made = tiny(0, types=types)
    clean = Clean(Cloud(cloud(0).pos, torch.zeros(9, 0, dtype=torch.float64), PTR), torch.zeros(9, dtype=torch.long))
    terms = loss_terms(made, clean, LEVEL, cloud(50, 0), WEIGHTS)
    assert bool(terms.total(WEIGHTS).isfinite())
    assert not terms.types.any()


def test_continuous_elements_cost_their_square_error() -> None:
    made, clean, noise = tiny(types="gaussian"), molecules(), cloud(50)
    terms = loss_terms(made, clean, LEVEL, noise, WEIGHTS)
    estimate = made(clean.cloud.plus(noise.scaled(LEVEL)), LEVEL)
    errors = (estimate.clean.feats - clean.cloud.feats).square().sum(1).split([3, 1, 5])
    assert torch.allclose(terms.types, made.levels.weight(LEVEL) * torch.stack([e.mean() for e in errors]))


def test_the_variational_objective_is_half_the_error_of_the_noise_per_coordinate() -> None:
    made = tiny(types="gaussian", self_conditioning=False, levels=Variational(num_steps=100), prediction="noise")
    clean, noise, step = molecules(), cloud(50), torch.tensor([20, 50, 90])
    terms = variational_terms(made, clean, step, noise)
    level = made.levels.at(step / 100.0)
    y = clean.cloud.plus(noise.scaled(level))
    estimate = made(y, level)
    s = level[y.batch][:, None]
    eps = (y.pos - estimate.clean.pos) / s, (y.feats - estimate.clean.feats) / s
    wrong = (eps[0] - noise.pos).square().sum(1) + (eps[1] - noise.feats).square().sum(1)
    sums = torch.stack([part.sum() for part in wrong.split([3, 1, 5])])
    sizes = PTR.diff()
    prior = kl_prior(clean.cloud, made.levels.schedule)  # of a fixed schedule: a small constant
    assert torch.allclose(terms.positions, 0.5 * sums / (6 * sizes) + prior, rtol=1e-9)
    assert prior.max() < 1e-3
    assert not terms.types.any()


# coupling


def cost(noise: Cloud, data: Cloud) -> np.ndarray:
    error = (noise.pos - data.pos).square().sum(1)
    return np.array([float(part.sum()) for part in error.split(data.ptr.diff().tolist())])


def test_coupled_noise_is_nearer_and_still_centred_noise() -> None:
    noise, data = cloud(50), cloud(0)
    coupled = optimal_transport(noise, data)
    before, after = cost(noise, data), cost(coupled, data)
    assert (after <= before + 1e-12).all()
    assert after[2] < 0.7 * before[2]
    for part, old in zip(coupled.pos.split([3, 1, 5]), noise.pos.split([3, 1, 5]), strict=True):
        assert part.mean(0).abs().max() < 1e-14
        # exchanged and turned: the lengths are the same, sorted
        assert torch.allclose(part.norm(dim=1).sort().values, old.norm(dim=1).sort().values, atol=1e-12)
        if len(part) == 5:
            assert torch.allclose(torch.linalg.svdvals(part), torch.linalg.svdvals(old))
    assert torch.equal(coupled.feats, noise.feats)
    assert coupled.pos.dtype == noise.pos.dtype


def test_no_other_rotation_is_better() -> None:
    noise, data = cloud(50), cloud(0)
    coupled = optimal_transport(noise, data)
    best = cost(coupled, data)
    for turn in random_rotations(200, generator=torch.Generator().manual_seed(0)):
        assert (cost(coupled.replace(coupled.pos @ turn.mT, coupled.feats), data) >= best - 1e-12).all()


def test_rotations_are_proper() -> None:
    """A chiral cloud and its mirror image: turning cannot make them equal."""
    ptr = torch.tensor([0, 4])
    pos = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.0]], dtype=torch.float64)
    data = Cloud(pos, pos[:, :0], ptr).centred()
    mirrored = Cloud(pos * torch.tensor([-1.0, 1, 1]), pos[:, :0], ptr).centred()
    assert cost(optimal_transport(data, data), data)[0] < 1e-20
    assert cost(optimal_transport(mirrored, data), data)[0] > 0.1


def test_coupling_follows_permutations_and_common_rotations() -> None:
    noise, data = cloud(50), cloud(0)
    coupled = optimal_transport(noise, data)
    order = torch.tensor([2, 0, 1, 3, 8, 4, 6, 5, 7])
    moved = optimal_transport(noise, data.replace(data.pos[order], data.feats[order]))
    assert torch.allclose(moved.pos, coupled.pos[order], atol=1e-12)
    shuffled = optimal_transport(noise.replace(noise.pos[order], noise.feats[order]), data)
    assert torch.allclose(shuffled.pos, coupled.pos, atol=1e-12)
    turn = random_rotations(1, generator=torch.Generator().manual_seed(1))[0]
    turned = optimal_transport(
        noise.replace(noise.pos @ turn.mT, noise.feats), data.replace(data.pos @ turn.mT, data.feats)
    )
    assert torch.allclose(turned.pos, coupled.pos @ turn.mT, atol=1e-12)


def test_turned_data_cost_as_much_in_law() -> None:
    copies = 400
    ptr = 5 * torch.arange(copies + 1)
    gens = [torch.Generator().manual_seed(k) for k in range(copies)]
    noise = gaussian_cloud(ptr, 0, gens, dtype=torch.float64)
    one = cloud(0).pos[4:] * torch.tensor([2.0, 1.0, 0.3])
    turn = random_rotations(1, generator=torch.Generator().manual_seed(1))[0]
    costs = [
        cost(optimal_transport(noise, data), data)
        for data in (Cloud(x.repeat(copies, 1), noise.feats, ptr) for x in (one, one @ turn.mT))
    ]
    assert kstest(*costs).pvalue > 0.01
    plain = cost(noise, Cloud(one.repeat(copies, 1), noise.feats, ptr))
    assert kstest(costs[0], plain).pvalue < 1e-6
