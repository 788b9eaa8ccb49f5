"""Noise schedules: published values, identities between what follows from γ, and the check of feature norms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geomol.diffusion.scaling import FeatureScaling, check_scaling
from geomol.diffusion.schedules import (
    LearnedSchedule,
    TableSchedule,
    alpha,
    alpha_given,
    cosine_schedule,
    make_schedule,
    polynomial_schedule,
    sigma,
    sigma2_given,
    sigma_given,
    snr,
)
from geomol.errors import ConfigError

TABLES = {"schedule_polynomial2_T1000": ("polynomial_2", 1000), "schedule_cosine_T500": ("cosine", 500)}
# T = 1000, precision 1e-5, power 2
PUBLISHED = {
    0: -11.51292, 1: -11.33060, 100: -3.89644, 250: -1.98204, 500: -0.25131, 750: 1.44086, 900: 3.28443,
    999: 11.17673, 1000: 11.51252,
}  # fmt: skip


def read_case(golden: Path, name: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    with np.load(golden / "edm" / f"{name}.npz", allow_pickle=False) as z:
        arrays = {k: torch.from_numpy(z[k]) for k in z.files}
    return arrays, json.loads((golden / "edm" / f"{name}.json").read_text())["tolerance"]


@pytest.mark.parametrize("step", list(PUBLISHED))
def test_the_polynomial_schedule_has_its_published_values(step: int) -> None:
    t = torch.tensor([step / 1000], dtype=torch.float64)
    assert float(polynomial_schedule(1000).gamma(t)[0]) == pytest.approx(PUBLISHED[step], abs=6e-6)


@pytest.mark.parametrize("name", list(TABLES))
def test_tables_and_what_follows_agree_with_the_official_ones(name: str, golden: Path) -> None:
    case, tolerance = read_case(golden, name)
    schedule = make_schedule(*TABLES[name])
    gamma = schedule.gamma(torch.linspace(0, 1, schedule.num_steps + 1, dtype=torch.float64))
    later, sooner = gamma[1:], gamma[:-1]
    found = {
        "gamma": gamma,
        "alpha": alpha(gamma),
        "sigma": sigma(gamma),
        "snr": snr(gamma),
        "alpha_t_given_s": alpha_given(later, sooner),
        "sigma_t_given_s": sigma_given(later, sooner),
        "sigma2_t_given_s": sigma2_given(later, sooner),
        "gamma_of_query_t": schedule.gamma(case["inputs/query_t"][:, 0])[:, None],
    }
    assert {f"outputs/{k}" for k in found} == {k for k in case if k.startswith("outputs/")}
    for key, value in found.items():
        torch.testing.assert_close(value, case[f"outputs/{key}"], **tolerance, msg=lambda m, key=key: f"{key}: {m}")


def test_the_learned_schedule_agrees_with_the_official_one(golden: Path) -> None:
    case, tolerance = read_case(golden, "schedule_learned")
    schedule = LearnedSchedule(1000).double()
    schedule.load_state_dict({k[8:]: v for k, v in case.items() if k.startswith("weights/")})
    gamma = schedule.gamma(case["inputs/t"][:, 0])
    torch.testing.assert_close(gamma, case["outputs/gamma"][:, 0], **tolerance)


def test_the_learned_schedule_rises_between_its_end_points() -> None:
    gamma = LearnedSchedule(100, hidden=32).gamma(torch.linspace(0, 1, 101)).detach()
    assert bool((gamma.diff() > 0).all())
    assert gamma[[0, -1]].tolist() == pytest.approx([-5.0, 10.0], abs=1e-4)


def test_the_learned_schedule_is_trained_through_gamma() -> None:
    schedule = LearnedSchedule(100, hidden=8)
    schedule.gamma(torch.tensor([0.3])).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in schedule.parameters())


@pytest.mark.parametrize("name", ["polynomial_1", "polynomial_2", "polynomial_3.5", "cosine", "learned"])
def test_steps_compose_to_the_whole(name: str) -> None:
    """α_t = α_{t|s} α_s and σ_t² = σ²_{t|s} + α_{t|s}² σ_s², and no more variance than one."""
    schedule = make_schedule(name, 50)
    gamma = schedule.gamma(torch.linspace(0, 1, 51, dtype=torch.float64)).detach().double()
    t, s = gamma[1:], gamma[:-1]
    torch.testing.assert_close(alpha(gamma).square() + sigma(gamma).square(), torch.ones(51, dtype=torch.float64))
    torch.testing.assert_close(alpha_given(t, s) * alpha(s), alpha(t))
    torch.testing.assert_close(sigma2_given(t, s) + (alpha_given(t, s) * sigma(s)).square(), sigma(t).square())
    assert bool((gamma.diff() >= 0).all())


def test_the_table_keeps_its_precision_next_to_a_network_in_float32() -> None:
    schedule = polynomial_schedule(1000)
    assert schedule.gamma(torch.tensor([0.5], dtype=torch.float32)).dtype == torch.float64
    steps = torch.arange(1001)
    assert torch.equal(schedule.gamma(steps.float() / 1000), schedule.table)


def test_clipped_ratios_keep_the_last_steps_finite() -> None:
    """Without them 1 − u² vanishes at u = 1, where precision alone would set the noise."""
    kept = torch.sigmoid(-polynomial_schedule(1000, precision=1e-12).table)
    assert float(kept[-1] / kept[-2]) == pytest.approx(1e-3, rel=1e-2)


# what cannot be used


@pytest.mark.parametrize("name", ["linear", "polynomial", "polynomial_x", "cosine_2"])
def test_unknown_schedules_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown noise schedule"):
        make_schedule(name, 10)


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_steps"):
        make_schedule("polynomial_2", 0)
    with pytest.raises(ConfigError, match="precision"):
        polynomial_schedule(10, precision=0.5)
    with pytest.raises(ConfigError, match="num_steps"):
        cosine_schedule(0)
    with pytest.raises(ConfigError, match="rise"):
        TableSchedule(torch.tensor([0.0, 1.0, 0.5]))


def test_features_hidden_by_the_least_noise_are_refused() -> None:
    """8 σ₀ = 0.0253 at precision 1e-5."""
    schedule = polynomial_schedule(1000)
    check_scaling(schedule, FeatureScaling(5, types=4.0, charge=10.0))
    check_scaling(schedule, FeatureScaling(5, types=39.0, charge=None))
    with pytest.raises(ConfigError, match=r"8 σ₀ ≤ 1/max\(norm\) = 0.025, got 8 σ₀ = 0.0253"):
        check_scaling(schedule, FeatureScaling(5, types=40.0, charge=None))
    with pytest.raises(ConfigError, match="hides the features"):
        check_scaling(polynomial_schedule(12, precision=0.01), FeatureScaling(5))
    check_scaling(LearnedSchedule(10), FeatureScaling(5))  # its end points move
