"""Samplers on Gaussian data, where the best denoiser and the path are known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from geomol.diffusion import (
    EVALUATIONS,
    SAMPLERS,
    Churn,
    Cloud,
    Denoise,
    Denoiser,
    Estimate,
    Flow,
    Karras,
    Variational,
    fit_backbone,
    gaussian_cloud,
    zero_mean,
)
from geomol.geometry import random_rotations
from geomol.symmetry import build_backbone

SPREAD = 0.6  # a: x ~ N(0, a²) in the subspace of zero centroid
TOP, LAST = 5.0, 0.02
ORDER = {"ddim": 1, "heun": 2, "multistep": 2, "midpoint": 2}


def wiener(noisy: Cloud, level: float, earlier: Estimate | None) -> Estimate:
    """E[x | y] of Gaussian data."""
    return Estimate(noisy.scaled(SPREAD**2 / (SPREAD**2 + level**2)))


def cloud(seed: int = 0, sizes: tuple[int, ...] = (4, 1, 3), dtype: torch.dtype = torch.float64) -> Cloud:
    ptr = torch.tensor([0, *np.cumsum(sizes)])
    return gaussian_cloud(ptr, 2, [torch.Generator().manual_seed(seed + k) for k in range(len(sizes))], dtype=dtype)


def no_noise() -> Cloud:
    raise AssertionError("a deterministic sampler draws nothing")


def exact(noisy: Cloud, begin: float, end: float) -> Cloud:
    """dy/ds = (y − x̂)/s = y s/(a² + s²), hence y(s) ∝ √(a² + s²)."""
    return noisy.scaled(math.sqrt((SPREAD**2 + end**2) / (SPREAD**2 + begin**2)))


def even_grid(num: int) -> Tensor:
    """Levels evenly spaced in ln s: refined uniformly in the variable of each method, up to a smooth change of it."""
    levels = torch.logspace(math.log10(TOP), math.log10(LAST), num, dtype=torch.float64)
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def two_humps(noisy: Cloud, level: float, earlier: Estimate | None) -> Estimate:
    """E[x | y] where every coordinate is ±1 + N(0, a²) by itself, projected so that centroids rest as in a denoiser."""
    total = SPREAD**2 + level**2

    def mean(y: Tensor) -> Tensor:
        return (SPREAD**2 * y + level**2 * torch.tanh(y / total)) / total

    return Estimate(noisy.replace(zero_mean(mean(noisy.pos), noisy.ptr), mean(noisy.feats)))


def along_humps(start: Cloud) -> Tensor:
    """The path of `two_humps`, dy/ds = (y − x̂)/s, by an integrator of scipy."""

    def slope(s: float, y: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(y.reshape(-1, 3))
        clean = two_humps(Cloud(points, points[:, :0], start.ptr), s, None).clean.pos
        return ((points - clean) / s).numpy().ravel()

    path = solve_ivp(slope, (TOP, LAST), start.pos.numpy().ravel(), method="DOP853", rtol=1e-11, atol=1e-12)
    return torch.from_numpy(path.y[:, -1].reshape(-1, 3))


def last_noisy(name: str, grid: Tensor, start: Cloud, denoise: Denoise = wiener) -> Cloud:
    """Where a sampler stands at the lowest level above 0."""
    seen: list[Cloud] = []
    SAMPLERS[name](denoise, start, grid, no_noise, on_step=lambda number, noisy, estimate: seen.append(noisy))
    return seen[-1]


def test_every_sampler_is_tested() -> None:
    assert set(SAMPLERS) == set(ORDER) | {"ancestral"}


@pytest.mark.parametrize("name", sorted(ORDER))
def test_deterministic_samplers_converge_with_their_order(name: str) -> None:
    """Against closed form and scipy. On Gaussian data the midpoint rule gains an order: its first error cancels."""
    start = cloud().scaled(TOP)
    for denoise, expected in ((wiener, exact(start, TOP, LAST).pos), (two_humps, along_humps(start))):
        errors = [
            float((last_noisy(name, even_grid(n + 1), start, denoise).pos - expected).abs().max())
            for n in (64, 128, 256)
        ]
        slopes = [math.log2(a / b) for a, b in pairwise(errors)]
        order = 3 if name == "midpoint" and denoise is wiener else ORDER[name]
        assert abs(slopes[-1] - order) < 0.2, slopes


@pytest.mark.parametrize("name", sorted(ORDER))
@pytest.mark.parametrize("levels", [Karras(), Flow(), Variational(num_steps=1000)], ids=lambda x: type(x).__name__)
def test_deterministic_samplers_end_near_the_exact_point_on_every_grid(name: str, levels: Karras) -> None:
    grid = levels.grid(100)
    start = cloud().scaled(float(grid[0]))
    got = SAMPLERS[name](wiener, start, grid, no_noise).clean
    expected = exact(start, float(grid[0]), 0.0)
    scale = float(expected.pos.abs().max())
    assert float((got.pos - expected.pos).abs().max()) < (0.1 if ORDER[name] == 1 else 0.05) * scale


def test_second_order_is_better_at_equal_cost() -> None:
    start = cloud().scaled(TOP)
    expected = exact(start, TOP, LAST).pos
    error = {
        name: float((last_noisy(name, even_grid(64 // EVALUATIONS.get(name, 1) + 1), start).pos - expected).abs().max())
        for name in ORDER
    }
    assert max(error[name] for name in ("heun", "multistep", "midpoint")) < 0.5 * error["ddim"], error


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("num", [1, 2, 5])
def test_calls_of_the_denoiser_are_as_many_as_said(name: str, num: int) -> None:
    calls: list[float] = []

    def counted(noisy: Cloud, level: float, earlier: Estimate | None) -> Estimate:
        assert (earlier is None) == (not calls), "each call but the first is shown the estimate before"
        calls.append(level)
        return wiener(noisy, level, earlier)

    steps: list[int] = []
    got = SAMPLERS[name](
        counted, cloud(), even_grid(num), lambda: cloud(9), on_step=lambda number, *_: steps.append(number)
    )
    each = EVALUATIONS.get(name, 1)
    assert len(calls) == each * num - (each - 1)
    assert steps == list(range(num))
    assert min(calls) > 0
    assert isinstance(got, Estimate)


# statistics


def draws(name: str, num_steps: int, *, churn: Churn | None = None, copies: int = 3000) -> float:
    """Variance of what comes out, over the degrees of freedom, in units of a²."""
    generator = torch.Generator().manual_seed(0)
    ptr = 4 * torch.arange(copies + 1)

    def noise() -> Cloud:
        both = torch.randn(4 * copies, 5, dtype=torch.float64, generator=generator)
        return Cloud(both[:, :3], both[:, 3:], ptr).centred()

    options = {} if churn is None else {"churn": churn}
    grid = even_grid(num_steps)
    start = noise().scaled(math.sqrt(SPREAD**2 + TOP**2))
    seen: list[Cloud] = []
    SAMPLERS[name](wiener, start, grid, noise, on_step=lambda i, y, x: seen.append(y), **options)
    # at the lowest level: a² + s²
    level2 = LAST**2
    total = float(seen[-1].pos.square().sum() / (9 * copies))
    return (total - level2) / SPREAD**2


BAR = 4 * math.sqrt(2 / 27_000)  # four standard errors of a variance over 27 000 numbers


def test_ancestral_sampling_gives_the_variance_of_the_data() -> None:
    """One step in the limit of many: the reverse kernel with x̂ for x is exact only then, and its lack is of order 1/n.

    For Gaussian data the kernel's variance lacks that of x given y, a known number: the recursion below.
    """

    def expected(num: int) -> float:
        levels, variance = even_grid(num)[:-1].tolist(), SPREAD**2 + TOP**2
        for s, t in pairwise(levels):
            shrink, r = SPREAD**2 / (SPREAD**2 + s**2), (t / s) ** 2
            variance = variance * (shrink * (1 - r) + r) ** 2 + t**2 * (1 - r)
        return (variance - LAST**2) / SPREAD**2

    for num in (20, 200):
        assert abs(draws("ancestral", num) / expected(num) - 1) < BAR
    assert abs(expected(20) - 1) > BAR, "the control: few steps are seen to be too few"
    assert abs(expected(2000) - 1) < 0.01


def test_churn_keeps_the_variance() -> None:
    churned = draws("heun", 60, churn=Churn(20.0, s_min=0.05, s_max=5.0))
    assert abs(churned - 1) < BAR + 0.01
    inflated = draws("heun", 60, churn=Churn(20.0, s_min=0.05, s_max=5.0, inflate=1.15))
    assert inflated - 1 > BAR + 0.01, "the control: too much noise is seen"


def test_churn_acts_between_its_levels_only_and_never_at_the_last() -> None:
    added: list[int] = []

    def noise() -> Cloud:
        added.append(1)
        return cloud(3)

    grid = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    SAMPLERS["heun"](wiener, cloud(), grid, noise, churn=Churn(1.0, s_min=0.1, s_max=4.0))
    assert len(added) == 3  # 4, 2, 1: not 8, and not 0.5, after which everything is over
    plain = SAMPLERS["heun"](wiener, cloud(), grid, no_noise).clean.pos
    none = SAMPLERS["heun"](wiener, cloud(), grid, no_noise, churn=Churn(1.0, s_min=100.0, s_max=200.0)).clean.pos
    assert torch.equal(plain, none)


# networks


def network(config: dict, dtype: torch.dtype = torch.float64) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = Denoiser(build_backbone(fit_backbone(config, num_types=2)), elements=[1, 6], levels=Karras()).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return made.to(dtype).eval()


EQUIVARIANT = {"name": "conditioned_egnn", "channels": 12, "pair_channels": 6, "num_layers": 2, "num_vectors": 3}
PLAIN = {"name": "mpnn", "channels": 8, "num_layers": 2, "num_radial": 0}


def run(made: Denoiser, name: str, turn: Tensor, **options: object) -> Estimate:
    """A whole way down with all noise turned."""
    count = iter(range(1000, 2000))

    def noise() -> Cloud:
        drawn = cloud(next(count) * 10, dtype=made.dtype)
        return drawn.replace(drawn.pos @ turn.to(made.dtype).mT, drawn.feats)

    @torch.no_grad()
    def denoise(noisy: Cloud, level: float, earlier: Estimate | None) -> Estimate:
        return made(noisy, torch.full((noisy.num_graphs,), level, dtype=made.dtype), earlier=earlier)

    grid = made.levels.grid(12)
    return SAMPLERS[name](denoise, noise().scaled(float(grid[0])), grid, noise, **options)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_turned_noise_gives_turned_molecules(name: str) -> None:
    options = {"churn": Churn(3.0)} if name == "heun" else {}
    turn = -random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    made, eye = network(EQUIVARIANT), torch.eye(3, dtype=torch.float64)
    straight, turned = run(made, name, eye, **options), run(made, name, turn, **options)
    assert straight.clean.pos.abs().max() > 0.1
    assert (turned.clean.pos - straight.clean.pos @ turn.mT).abs().max() < 1e-10
    assert (turned.logits - straight.logits).abs().max() < 1e-10


def test_a_backbone_without_the_symmetry_is_noticed() -> None:
    turn = random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    made = network(PLAIN)
    straight, turned = (run(made, "heun", t) for t in (torch.eye(3, dtype=torch.float64), turn))
    assert (turned.clean.pos - straight.clean.pos @ turn.mT).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [Karras(), Variational()], ids=lambda x: type(x).__name__)
def test_centroids_of_estimates_stay_at_the_origin(name: str, dtype: torch.dtype, levels: Karras) -> None:
    """To 10⁻⁶ Å in every step; noisy positions, which are up to 316 times as large, in units of their size."""
    made = network(EQUIVARIANT, dtype)
    made.levels = levels
    worst: list[float] = []

    def centroid(points: Cloud) -> Tensor:
        return torch.stack([part.double().mean(0) for part in points.pos.split(points.ptr.diff().tolist())]).abs().max()

    def watch(number: int, noisy: Cloud, estimate: Estimate) -> None:
        size = max(1.0, float(noisy.pos.abs().max()))
        worst.append(max(float(centroid(estimate.clean)), float(centroid(noisy)) / size) * made.length_unit)

    run(made, name, torch.eye(3, dtype=torch.float64), on_step=watch)
    assert max(worst) < (1e-6 if dtype == torch.float32 else 1e-13)
