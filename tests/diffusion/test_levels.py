"""Noise levels: distributions against scipy, weights against their definitions, grids, and bad settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from geomol.diffusion import PROCESSES, Flow, Karras, Variational, build_levels, levels_config, polynomial_schedule
from geomol.diffusion.levels import Levels, even_draws
from geomol.errors import ConfigError

ALL = [
    {"name": "karras"},
    {"name": "karras", "low_share": 0.0, "mean": -0.5, "rho": 5.0},
    {"name": "variational"},
    {"name": "variational", "schedule": "cosine", "num_steps": 200},
    {"name": "variational", "schedule": "learned", "num_steps": 100, "objective": "vlb"},
    {"name": "flow"},
    {"name": "flow", "power": 1.0, "t_max": 0.95},
]
all_levels = pytest.mark.parametrize("config", ALL, ids=str)
U = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)


def test_every_process_is_tested() -> None:
    assert {config["name"] for config in ALL} == set(PROCESSES)


@all_levels
def test_a_process_is_made_anew_from_its_configuration(config: dict) -> None:
    levels = build_levels(config)
    twin = build_levels(levels_config(levels))
    assert type(twin) is type(levels)
    assert levels_config(twin) == levels_config(levels)
    if config.get("schedule") != "learned":  # whose weights are drawn
        assert torch.equal(twin.at(U), levels.at(U))
        assert torch.equal(twin.grid(20), levels.grid(20))
    assert levels_config(levels).items() >= config.items()


@all_levels
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_grids_descend_to_zero(config: dict, num_steps: int) -> None:
    grid = build_levels(config).grid(num_steps)
    assert grid.shape == (num_steps + 1,)
    assert grid.dtype == torch.float64
    assert not grid.requires_grad
    assert float(grid[-1]) == 0.0
    assert bool((grid.diff() < 0).all())


@all_levels
def test_draws_are_positive_and_follow_the_generator(config: dict) -> None:
    levels: Levels = build_levels(config)
    draws = [levels.draw(500, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert bool(((draws[0] > 0) & draws[0].isfinite()).all())
    assert bool((levels.weight(draws[0]) > 0).all())


def test_even_draws_fill_every_bin_once_in_random_order() -> None:
    u = even_draws(100, torch.Generator().manual_seed(0))
    assert sorted((u * 100).long().tolist()) == list(range(100))
    assert bool((u.diff() < 0).any())
    # uniform within the bins too
    assert stats.kstest((u.numpy() * 100) % 1, "uniform").pvalue > 0.01


def test_karras_levels_are_log_normal_with_a_low_share() -> None:
    mean, std, share, low_min, low_max = -1.0, 1.1, 0.3, 0.006, 0.09
    levels = Karras(mean=mean, std=std, low_share=share, low_min=low_min, low_max=low_max)
    drawn = levels.draw(20_000, torch.Generator().manual_seed(0)).log().numpy()

    def cdf(x: np.ndarray) -> np.ndarray:
        low = stats.uniform(math.log(low_min), math.log(low_max / low_min)).cdf(x)
        return share * low + (1 - share) * stats.norm(mean, std).cdf(x)

    assert stats.kstest(drawn, cdf).statistic < 0.003
    assert stats.kstest(drawn, stats.norm(mean, std).cdf).statistic > 0.1, "the control: without the low share"


def test_karras_quantiles_are_those_of_scipy() -> None:
    expected = stats.lognorm(s=1.2, scale=math.exp(-1.2)).ppf(U.numpy())
    assert np.allclose(Karras(low_share=0.0).at(U).numpy(), expected, rtol=1e-9)


def test_karras_weight_and_grid_are_those_of_the_paper() -> None:
    """With σ_data = 1: λ(σ) = (σ² + 1)/σ²; eq. 5 of arXiv:2206.00364 with i = 0 … n − 1."""
    levels = Karras(s_min=0.002, s_max=80.0, rho=7.0)
    s = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    assert torch.allclose(levels.weight(s), (s**2 + 1) / s**2)
    i = np.arange(18)
    expected = (80.0 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7
    assert np.allclose(levels.grid(18)[:-1].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_flow_times_are_beta_distributed_and_levels_their_ratio(power: float) -> None:
    levels = Flow(power=power, t_max=0.9999, t_min=1e-6)
    t = stats.beta(1, power).ppf(U.numpy())
    s = levels.at(U).numpy()
    assert np.allclose(s, t / (1 - t), rtol=1e-9)
    assert np.allclose(s / (1 + s), t, rtol=1e-9)
    wrong = stats.beta(power + 1, 1).ppf(U.numpy())
    assert not np.allclose(s / (1 + s), wrong, rtol=1e-2)


def test_flow_weight_is_the_plain_error_of_the_velocity() -> None:
    """z = (1 − t) x + t ε, v = ε − x = (z − x)/t: an error of x is one of 1/t in v."""
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    levels = Flow()
    assert torch.allclose(levels.weight(t / (1 - t)), 1 / t**2)
    assert float(levels.weight(torch.tensor([1e-9]))) == levels.cap
    grid = Flow(t_max=0.99, t_min=0.01).grid(50)[:-1]
    assert torch.allclose(grid / (1 + grid), torch.linspace(0.99, 0.01, 50, dtype=torch.float64))


def test_variational_levels_are_those_of_the_schedule() -> None:
    levels, schedule = Variational(num_steps=1000), polynomial_schedule(1000)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    s = levels.at(t)
    assert torch.allclose(s.log() * 2, schedule.table, atol=1e-12)
    # s = σ/α, with α² = 1 − σ²
    alpha2 = torch.sigmoid(-schedule.table)
    assert torch.allclose(s.square(), (1 - alpha2) / alpha2, rtol=1e-6)
    assert float(s[0].log() * 2) == pytest.approx(-11.51292, abs=1e-5)
    assert float(s[500].log() * 2) == pytest.approx(-0.25131, abs=1e-5)
    assert float(s[1000].log() * 2) == pytest.approx(11.51252, abs=1e-5)
    # |ε̂ − ε|² = |x̂ − x|²/s²
    assert torch.allclose(levels.weight(s), s**-2)
    assert torch.allclose(levels.grid(1000)[:-1], s.flip(0)[:-1])


def test_levels_would_come_twice_with_more_steps_than_the_table_has() -> None:
    assert Variational(num_steps=50).grid(50).shape == (51,)
    with pytest.raises(ConfigError, match=r"more steps than the noise schedule.*at most 50, got 51"):
        Variational(num_steps=50).grid(51)
    learned = Variational(schedule="learned", num_steps=50, objective="vlb").grid(80)
    assert bool((learned.diff() < 0).all())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "karas"}, r'unknown noise process "karas".*did you mean "karras"'),
        ({}, "unknown noise process"),
        ({"name": "karras", "sigma": 1}, "arguments of noise process"),
        ({"name": "karras", "s_min": 30.0}, "noise levels need"),
        ({"name": "karras", "s_min": 0.0}, "noise levels need"),
        ({"name": "karras", "low_share": 1.0}, "noise levels need"),
        ({"name": "karras", "std": float("nan")}, "noise levels need"),
        ({"name": "karras", "rho": 0.0}, "noise levels need"),
        ({"name": "karras", "std": "wide"}, "arguments of noise process"),
        ({"name": "flow", "power": 0.0}, "a flow needs"),
        ({"name": "flow", "t_max": 1.0}, "a flow needs"),
        ({"name": "flow", "t_min": 0.0}, "a flow needs"),
        ({"name": "flow", "t_min": 0.5, "t_max": 0.4}, "a flow needs"),
        ({"name": "variational", "schedule": "linear"}, "unknown noise schedule"),
        ({"name": "variational", "num_steps": 0}, "num_steps"),
        ({"name": "variational", "objective": "l1"}, "unknown objective"),
        ({"name": "variational", "schedule": "learned"}, "needs the variational objective"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_in_a_line(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_levels(config)
    assert "\n" not in str(caught.value)
