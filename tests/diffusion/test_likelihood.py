"""The bound on −ln p: official terms, an exact answer for Gaussian data, and counting of dimensions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusion.edm_case import Case, read_edm
from torch import Tensor

from geomol.diffusion.cloud import Cloud, gaussian_cloud
from geomol.diffusion.likelihood import NLL, estimate_nll, nll_terms
from geomol.diffusion.scaling import FeatureScaling, log_prob_charges, log_prob_types
from geomol.diffusion.schedules import (
    LearnedSchedule,
    Schedule,
    TableSchedule,
    alpha,
    make_schedule,
    polynomial_schedule,
    sigma,
)
from geomol.diffusion.sizes import SizePrior
from geomol.diffusion.variational_loss import draw_steps, training_terms
from geomol.errors import ConfigError

LOSSES = ["losses_l2", "losses_vlb"]
ELEMENTS = torch.tensor([1, 6, 7, 8, 9])
EMPTY = FeatureScaling(0, charge=None)


def molecules(case: Case) -> tuple[Cloud, FeatureScaling]:
    """The molecules of a case, as clouds."""
    norms = case.config["norm_values"]
    scaling = FeatureScaling(5, pos=norms[0], types=norms[1], charge=norms[2])
    numbers = case.flat("numbers")
    types = (numbers[:, None] == ELEMENTS).long().argmax(1)
    return scaling.encode(case.flat("positions"), types, numbers, case.ptr), scaling


def schedule_of(case: Case) -> TableSchedule:
    schedule = make_schedule(
        case.config["noise_schedule"], case.config["timesteps"], precision=case.config["precision"]
    )
    assert isinstance(schedule, TableSchedule)
    torch.testing.assert_close(schedule.table, case.arrays["gamma_table"], rtol=1e-9, atol=1e-9)
    return schedule


def prior(golden: Path) -> SizePrior:
    with np.load(golden / "edm" / "node_counts.npz", allow_pickle=False) as z:
        return SizePrior(dict(zip(z["inputs/n"].tolist(), z["inputs/histogram"].tolist(), strict=True)))


# official cases


@pytest.mark.parametrize("name", LOSSES)
def test_every_term_of_the_likelihood_is_the_official_one(name: str, golden: Path) -> None:
    case = read_edm(golden, name)
    data, scaling = molecules(case)
    with torch.no_grad():
        nll = nll_terms(
            case.eps(), data, schedule_of(case), scaling,
            step=case.arrays["t_eval"][:, 0],
            noise=case.cloud("eps_t"),
            noise_0=case.cloud("eps_0"),
            sizes=prior(golden),
        )  # fmt: skip
    found = {
        "eval_kl_prior": nll.kl_prior,
        "eval_neg_log_constants": nll.constants,
        "eval_loss_term_0": nll.positions + nll.types + nll.charges,
        "eval_nll": nll.given_size,
        "delta_log_px": -nll.volume,
        "log_pN": -nll.size,
    }
    for key, value in found.items():
        torch.testing.assert_close(value, case.arrays[key], **case.tolerance, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", LOSSES)
def test_the_training_loss_is_the_official_one(name: str, golden: Path) -> None:
    """With the padded number of atoms in the divisor of "l2", as in the official code."""
    case = read_edm(golden, name)
    data, scaling = molecules(case)
    terms = training_terms(
        case.eps(), data, schedule_of(case), scaling,
        step=case.arrays["t_train"][:, 0],
        noise=case.cloud("eps_t"),
        objective=case.config["loss_type"],
        num_padded=case.real.shape[1],
    )  # fmt: skip
    torch.testing.assert_close(terms.total, case.arrays["train_loss"], **case.tolerance)
    torch.testing.assert_close(-terms.reconstruction, case.arrays["train_log_p_given_z_term"], **case.tolerance)


def test_the_loss_of_a_molecule_does_not_depend_on_the_others(golden: Path) -> None:
    """Unless the divisor is that of the largest molecule of the batch."""
    case = read_edm(golden, "losses_l2")
    data, scaling = molecules(case)
    noise, step, n = case.cloud("eps_t"), case.arrays["t_train"][:, 0], int(case.ptr[1])
    whole = training_terms(case.eps(), data, schedule_of(case), scaling, step=step, noise=noise)
    alone = [Cloud(c.pos[:n], c.feats[:n], c.ptr[:2]) for c in (data, noise)]
    first = training_terms(case.eps(), alone[0], schedule_of(case), scaling, step=step[:1], noise=alone[1])
    torch.testing.assert_close(first.total, whole.total[:1])
    padded = training_terms(case.eps(), data, schedule_of(case), scaling, step=step, noise=noise, num_padded=16)
    assert not torch.allclose(padded.total[:1], first.total)


def test_the_prior_of_sizes_is_the_official_one(golden: Path) -> None:
    with np.load(golden / "edm" / "node_counts.npz", allow_pickle=False) as z:
        n, log_prob = torch.from_numpy(z["inputs/n"]), torch.from_numpy(z["outputs/log_prob"])
    torch.testing.assert_close(prior(golden).log_prob(n), log_prob, rtol=1e-8, atol=1e-8)
    assert prior(golden).entropy == pytest.approx(2.4757, abs=5e-5)


# exact answers


def gaussian_data(num: int, size: int, spread: float, seed: int) -> Cloud:
    """Points from a normal distribution in the space of zero centroid."""
    generators = [torch.Generator().manual_seed(seed + k) for k in range(num)]
    return gaussian_cloud(torch.arange(num + 1) * size, 0, generators, dtype=torch.float64).scaled(spread)


def best_eps(schedule: Schedule, spread: float) -> Any:
    """The expected noise for such data."""

    def eps(cloud: Cloud, t: Tensor) -> Cloud:
        gamma = schedule.gamma(t)
        a, s = alpha(gamma), sigma(gamma)
        return cloud.scaled(s / (a.square() * spread**2 + s.square()))

    return eps


def even_schedule(num_steps: int) -> TableSchedule:
    """γ in equal steps, for which the bound is tight up to a term in 1/T."""
    return TableSchedule(torch.linspace(-9, 9, num_steps + 1, dtype=torch.float64))


def bound(data: Cloud, schedule: Schedule, spread: float, scaling: FeatureScaling = EMPTY) -> NLL:
    """With the best ε̂, over all steps."""
    generators = [torch.Generator().manual_seed(10_000 + k) for k in range(data.num_graphs)]
    eps = best_eps(schedule, spread)
    return estimate_nll(eps, data, schedule, scaling, generators, times=schedule.num_steps)


def test_the_bound_of_gaussian_data_is_their_density() -> None:
    """For the best ε̂ and T → ∞ the bound is tight, by halves of the gap; so all terms must be right."""
    spread, size, num = 1.7, 3, 500
    data = gaussian_data(num, size, spread, 0)
    squares = data.pos.square().view(num, -1).sum(1)
    exact = squares / (2 * spread**2) + 1.5 * (size - 1) * math.log(2 * math.pi * spread**2)
    coarse, fine = (bound(data, even_schedule(num_steps), spread) for num_steps in (100, 200))
    first, second = (float((nll.total - exact).mean()) for nll in (coarse, fine))
    assert 0 < second < 0.7 * first
    assert abs(2 * second - first) < 0.5
    # the control: one dimension more in the constants alone would be seen
    assert abs(float(fine.constants[0])) / (3 * (size - 1)) > 3


def test_scaling_of_lengths_changes_the_density_by_its_volume() -> None:
    """The same molecules through norm_x = 2 have the same likelihood per Å."""
    schedule, size, num, spread = even_schedule(100), 4, 100, 1.5
    pos = gaussian_data(num, size, spread, 1).pos
    found = []
    for norm in (1.0, 2.0):
        scaling = FeatureScaling(0, pos=norm, charge=None)
        data = scaling.encode(pos, torch.zeros(len(pos), dtype=torch.long), None, torch.arange(num + 1) * size)
        found.append(bound(data, schedule, spread / norm, scaling))
    volume = 3 * (size - 1) * math.log(2)
    assert found[1].volume.tolist() == pytest.approx([volume] * num)
    assert abs(float((found[1].total - found[0].total).mean())) < 1
    assert volume > 6


def test_a_standard_normal_without_its_centroid_has_three_dimensions_less() -> None:
    """Two points at (±1, 0, 0): ln p = −½ · 2 − ½ · 3 ln 2π."""
    pos = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]], dtype=torch.float64)
    constant = TableSchedule(torch.tensor([0.0, 40.0], dtype=torch.float64))
    data = Cloud(pos, torch.zeros(2, 0, dtype=torch.float64), torch.tensor([0, 2]))

    def perfect(cloud: Cloud, t: Tensor) -> Cloud:
        """σ₀ = α₀, so that x = z/α₀ − ε is standard normal around z/α₀ − ε̂; here ε − ε̂ = x."""
        return noise.plus(data.scaled(-1.0)) if float(t[0]) == 0 else noise

    noise = gaussian_cloud(data.ptr, 0, [torch.Generator().manual_seed(0)], dtype=torch.float64)
    nll = nll_terms(perfect, data, constant, EMPTY, step=torch.tensor([1]), noise=noise, noise_0=noise)
    assert float(nll.total) == pytest.approx(3.7568156, abs=1e-6)


def test_probabilities_of_types_and_of_charges_sum_to_one() -> None:
    scaling = FeatureScaling(3)
    gen = torch.Generator().manual_seed(0)
    feats = torch.randn(1, 4, generator=gen, dtype=torch.float64) / 3
    width = torch.tensor([0.2], dtype=torch.float64)
    noisy = Cloud(torch.zeros(1, 3, dtype=torch.float64), feats, torch.tensor([0, 1]))
    types = charges = 0.0
    for kind, charge in itertools.product(range(3), range(-40, 41)):
        data = scaling.encode(noisy.pos, torch.tensor([kind]), torch.tensor([charge]), noisy.ptr)
        types += float(log_prob_types(noisy, data, width, scaling).exp()) / 81
        charges += float(log_prob_charges(noisy, data, width, scaling).exp()) / 3
    assert types == pytest.approx(1, abs=1e-12)
    assert charges == pytest.approx(1, abs=1e-7)


def test_all_steps_are_met_once_where_there_are_as_many_draws() -> None:
    """Then the estimate has no noise from the choice of times."""
    schedule, met = polynomial_schedule(8), []

    def eps(cloud: Cloud, t: Tensor) -> Cloud:
        met.extend((t * 8).round().long().tolist())
        return cloud

    data = gaussian_data(2, 3, 1.0, 0)
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    estimate_nll(eps, data, schedule, EMPTY, generators, times=8)
    assert sorted(met) == sorted([0] * 16 + 2 * list(range(1, 9)))


def test_the_estimate_of_a_molecule_does_not_depend_on_the_others() -> None:
    schedule, data = polynomial_schedule(50), gaussian_data(3, 4, 1.0, 0)
    eps = best_eps(schedule, 1.0)
    together = estimate_nll(eps, data, schedule, EMPTY, [torch.Generator().manual_seed(k) for k in range(3)], times=3)
    last = Cloud(data.pos[8:], data.feats[8:], torch.tensor([0, 4]))
    alone = estimate_nll(eps, last, schedule, EMPTY, [torch.Generator().manual_seed(2)], times=3)
    torch.testing.assert_close(together.total[2:], alone.total)


# training


def test_the_vlb_loss_is_the_bound_on_average() -> None:
    """(T + 1) times the term of a step that is uniform on 0 … T is the sum of all of them."""
    schedule, scaling = polynomial_schedule(4, precision=0.01), FeatureScaling(2, types=1.0, charge=1.0)
    gen = torch.Generator().manual_seed(0)
    types = torch.tensor([0, 1, 1])
    data = scaling.encode(torch.randn(3, 3, generator=gen, dtype=torch.float64), types, types + 1, torch.tensor([0, 3]))
    noise = gaussian_cloud(data.ptr, 3, [gen], dtype=torch.float64)

    def eps(cloud: Cloud, t: Tensor) -> Cloud:
        return cloud.scaled(0.5)

    def term(step: int) -> Tensor:
        chosen = torch.tensor([step])
        return training_terms(eps, data, schedule, scaling, step=chosen, noise=noise, objective="vlb").total

    mean = torch.stack([term(k) for k in range(5)]).mean(0)
    bounds = [
        nll_terms(eps, data, schedule, scaling, step=torch.tensor([k]), noise=noise, noise_0=noise).total
        for k in range(1, 5)
    ]
    torch.testing.assert_close(mean, torch.stack(bounds).mean(0))


def test_a_learned_schedule_gets_gradients_from_the_vlb_loss_only() -> None:
    schedule, scaling = LearnedSchedule(10, hidden=8), FeatureScaling(2, charge=None)
    gen = torch.Generator().manual_seed(0)
    data = scaling.encode(torch.randn(3, 3, generator=gen), torch.tensor([0, 1, 1]), None, torch.tensor([0, 3]))
    noise, step = gaussian_cloud(data.ptr, 2, [gen]), torch.tensor([4])
    loss = training_terms(lambda c, t: c, data, schedule, scaling, step=step, noise=noise, objective="vlb").total.sum()
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in schedule.parameters())
    assert schedule.gamma_0.grad is not None
    assert float(schedule.gamma_0.grad.abs()) > 1e-3
    with pytest.raises(ConfigError, match="variational objective"):
        training_terms(lambda c, t: c, data, schedule, scaling, step=step, noise=noise)


def test_steps_of_training_include_both_ends() -> None:
    steps = draw_steps(500, polynomial_schedule(4), torch.Generator().manual_seed(0))
    assert set(steps.tolist()) == {0, 1, 2, 3, 4}


# sizes


def test_sizes_are_drawn_as_often_as_counted() -> None:
    sizes = SizePrior({2: 1, 5: 3, 9: 0})
    drawn = sizes.sample(4000, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {2, 5}
    assert float((drawn == 5).double().mean()) == pytest.approx(0.75, abs=0.03)
    assert sizes.log_prob(torch.tensor([2, 5, 9, 1, 77])).exp().tolist() == pytest.approx([0.25, 0.75, 0, 0, 0])
    assert SizePrior.from_sizes([5, 2, 5, 5]).counts == {2: 1, 5: 3}
    assert sizes.entropy == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


@pytest.mark.parametrize("counts", [{}, {3: 0}, {0: 5}, {3: -1, 4: 2}])
def test_impossible_histograms_are_refused(counts: dict[int, int]) -> None:
    with pytest.raises(ConfigError, match="prior of sizes"):
        SizePrior(counts)


def test_unknown_objectives_are_refused() -> None:
    data = gaussian_data(1, 3, 1.0, 0)
    with pytest.raises(ConfigError, match="unknown objective"):
        training_terms(
            lambda c, t: c, data, polynomial_schedule(5), EMPTY, step=torch.tensor([1]), noise=data, objective="l1"
        )
