"""Steps of variational diffusion: official numbers, equivariance, and the centroid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusion.edm_case import read_edm
from torch import Tensor

from geomol.diffusion import Denoiser, fit_backbone
from geomol.diffusion.cloud import Cloud, gaussian_cloud
from geomol.diffusion.eps_model import EpsModel, eps_of_denoiser
from geomol.diffusion.levels import build_levels
from geomol.diffusion.scaling import FeatureScaling
from geomol.diffusion.schedules import alpha, polynomial_schedule, sigma
from geomol.diffusion.variational import Sampled, diffuse, final_step, reverse_step, sample_ancestral
from geomol.errors import ConfigError
from geomol.models.edm_egnn import EDMEGNN
from geomol.symmetry import build_backbone

SCHEDULE = polynomial_schedule(1000)
QM9 = FeatureScaling(5)
STEPS = [1000, 999, 500, 2, 1]
PTR = torch.tensor([0, 5, 6, 13])


def noise(seed: int = 0, *, num_feats: int = 6, dtype: torch.dtype = torch.float64) -> Cloud:
    generators = [torch.Generator().manual_seed(100 * seed + k) for k in range(len(PTR) - 1)]
    return gaussian_cloud(PTR, num_feats, generators, dtype=dtype)


def network(dtype: torch.dtype = torch.float64) -> EpsModel:
    """A small EDM-EGNN with all weights moved off their start."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = EDMEGNN(in_scalars=7, out_scalars=7, channels=16, num_layers=2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return EpsModel(model).to(dtype).requires_grad_(False)


def times(step: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full((len(PTR) - 1,), step / 1000, dtype=dtype)


def turn() -> Tensor:
    """A rotation with a reflection."""
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    return -q * torch.linalg.det(q).sign()


def turned(cloud: Cloud, q: Tensor) -> Cloud:
    return cloud.replace(cloud.pos @ q.T, cloud.feats)


def centroids(cloud: Cloud) -> float:
    return max(float(p.mean(0).abs().max()) for p in cloud.pos.split(cloud.ptr.diff().tolist()))


# official case


@pytest.mark.parametrize("step", STEPS)
def test_a_reverse_step_gives_the_official_numbers(step: int, golden: Path) -> None:
    case = read_edm(golden, "sampling")
    z, given = case.cloud("z_t"), case.cloud("eps")
    with torch.no_grad():
        new = reverse_step(case.eps(), z, SCHEDULE, times(step), times(step - 1), given)
    expected = case.flat(f"z_s_from_t{step}")
    torch.testing.assert_close(torch.cat([new.pos, new.feats], dim=1), expected, **case.tolerance)


def test_the_final_step_gives_the_official_molecules(golden: Path) -> None:
    case = read_edm(golden, "sampling")
    with torch.no_grad():
        made = final_step(case.eps(), case.cloud("z_t"), SCHEDULE, QM9, case.cloud("eps"))
    torch.testing.assert_close(made.pos, case.flat("x_from_z0"), **case.tolerance)
    assert torch.equal(made.types, case.flat("types_from_z0"))
    assert made.charges is not None
    assert torch.equal(made.charges.double(), case.flat("charges_from_z0"))


def test_a_chain_gives_the_official_molecules(golden: Path) -> None:
    case = read_edm(golden, "sampling")
    norms, num = case.config["chain_norm_values"], case.config["chain_timesteps"]
    schedule = polynomial_schedule(num, precision=case.config["chain_precision"])
    torch.testing.assert_close(schedule.table, case.arrays["chain_gamma_table"], rtol=1e-9, atol=1e-9)
    given: Iterator[Cloud] = iter([case.cloud(array) for array in case.arrays["chain_noise"]])
    scaling = FeatureScaling(5, pos=norms[0], types=norms[1], charge=norms[2])
    left: list[int] = []
    made = sample_ancestral(
        case.eps(), next(given), schedule, scaling, lambda: next(given), on_step=lambda k, _: left.append(k)
    )
    assert left == list(range(num))[::-1]
    torch.testing.assert_close(made.pos, case.flat("chain_x"), **case.tolerance)
    assert torch.equal(made.types, case.flat("chain_types"))
    assert made.charges is not None
    assert torch.equal(made.charges.double(), case.flat("chain_charges"))


def test_without_charges_no_type_is_lost() -> None:
    """The official last step cannot give the last type there."""
    scaling, hot = FeatureScaling(6, charge=None), torch.arange(13) % 6
    z = scaling.encode(noise().pos, hot, None, PTR)
    assert torch.equal(final_step(network(), z, SCHEDULE, scaling, noise()).types, hot)


# the process


def test_noise_and_steps_agree_on_the_variance_of_each_time() -> None:
    """z_t, taken back by a step with the true x, has the mean and variance of q(z_s | x)."""
    num, t, s = 4000, 600, 400
    ptr = torch.arange(num + 1) * 2
    clean = Cloud(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]).double().repeat(num, 1), torch.zeros(2 * num, 0), ptr)
    generators = [torch.Generator().manual_seed(k) for k in range(num)]
    first, second = (gaussian_cloud(ptr, 0, generators, dtype=torch.float64) for _ in range(2))
    at_t, at_s = (torch.full((num,), k / 1000, dtype=torch.float64) for k in (t, s))
    noisy = diffuse(clean, first, SCHEDULE.gamma(at_t))
    back = reverse_step(lambda *_: first, noisy, SCHEDULE, at_t, at_s, second)
    gamma = SCHEDULE.gamma(at_s[:1])
    left, right = back.pos.view(num, 2, 3).unbind(1)
    torch.testing.assert_close(right, -left)
    expected = torch.tensor([float(alpha(gamma)), 0, 0], dtype=torch.float64)
    torch.testing.assert_close(left.mean(0), expected, rtol=0, atol=0.04)
    # two points without centroid: each has half the variance
    torch.testing.assert_close(left.var(0), (sigma(gamma).square() / 2).expand(3), rtol=0.1, atol=0)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_with_turned_noise_gives_the_turned_result(step: int) -> None:
    q, z, given = turn(), noise(1), noise(2)
    eps = network()
    new = reverse_step(eps, z, SCHEDULE, times(step), times(step - 1), given)
    other = reverse_step(eps, turned(z, q), SCHEDULE, times(step), times(step - 1), turned(given, q))
    assert float((new.pos - z.pos).abs().max()) > 1e-4
    torch.testing.assert_close(other.pos, new.pos @ q.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other.feats, new.feats, rtol=1e-12, atol=1e-12)


def test_a_network_that_reads_coordinates_does_not_turn_along() -> None:
    """The control of the test above."""
    q, z, given, right = turn(), noise(1), noise(2), network()

    def eps(cloud: Cloud, t: Tensor) -> Cloud:
        return right(cloud.replace(cloud.pos, torch.cat([cloud.pos, cloud.feats[:, 3:]], dim=1)), t)

    new = reverse_step(eps, z, SCHEDULE, times(999), times(998), given)
    other = reverse_step(eps, turned(z, q), SCHEDULE, times(999), times(998), turned(given, q))
    assert float((other.pos - new.pos @ q.T).abs().max()) > 1e-5


def test_a_chain_with_turned_noise_gives_the_turned_molecules() -> None:
    q, schedule, eps = turn(), polynomial_schedule(20, precision=1e-3), network()
    start, draws = noise(0), [noise(k) for k in range(1, 22)]

    def chain(change: Callable[[Cloud], Cloud]) -> Sampled:
        given = map(change, draws)
        return sample_ancestral(eps, change(start), schedule, QM9, lambda: next(given))

    one, other = chain(lambda c: c), chain(lambda c: turned(c, q))
    torch.testing.assert_close(other.pos, one.pos @ q.T, rtol=1e-9, atol=1e-9)
    assert torch.equal(one.types, other.types)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_centroid_stays_at_the_origin(dtype: torch.dtype) -> None:
    drift: list[float] = []
    eps, schedule = network(dtype), polynomial_schedule(50)
    draws = (noise(k, dtype=dtype) for k in range(1, 60))
    made = sample_ancestral(
        eps, noise(0, dtype=dtype), schedule, QM9, lambda: next(draws), on_step=lambda _, c: drift.append(centroids(c))
    )
    assert made.pos.dtype == dtype
    # float32 rounds in proportion to what is left of an untrained network's molecules
    assert max(drift) < (1e-6 if dtype == torch.float64 else 1e-6 * max(1.0, float(made.pos.abs().max())))


def test_noise_with_a_centroid_breaks_the_likelihood() -> None:
    """The control: not projected, noise has n/(n − 1) times the variance per dimension that the bound counts on."""
    num = 3000
    ptr = torch.arange(num + 1) * 2
    generators = [torch.Generator().manual_seed(k) for k in range(num)]
    right = gaussian_cloud(ptr, 0, generators, dtype=torch.float64).pos
    wrong = torch.randn(2 * num, 3, generator=generators[0], dtype=torch.float64)
    dims = 3 * num  # of the space without centroids, 3 (n − 1) each
    assert float(right.square().sum() / dims) == pytest.approx(1, abs=0.05)
    assert float(wrong.square().sum() / dims) == pytest.approx(2, abs=0.1)
    assert centroids(Cloud(wrong, torch.zeros(2 * num, 0), ptr)) > 1


def test_fewer_steps_than_the_schedule_has_walk_the_same_way() -> None:
    """With the best ε̂ for one fixed molecule, any number of steps ends there."""
    clean = QM9.encode(3 * noise(5).pos, torch.arange(13) % 5, torch.arange(13) % 4, PTR)

    def eps(cloud: Cloud, t: Tensor) -> Cloud:
        gamma = SCHEDULE.gamma(t)
        return cloud.plus(clean.scaled(-alpha(gamma))).scaled(1 / sigma(gamma))

    for num in (1, 7, 100):
        draws = (noise(k) for k in range(1, 200))
        made = sample_ancestral(eps, noise(0), SCHEDULE, QM9, lambda draws=draws: next(draws), num_steps=num)
        torch.testing.assert_close(made.pos, clean.pos, rtol=0, atol=0.02)
        assert torch.equal(made.types, torch.arange(13) % 5)
        assert made.charges is not None
        assert torch.equal(made.charges, torch.arange(13) % 4)
    with pytest.raises(ConfigError, match="that many steps"):
        sample_ancestral(eps, noise(0), SCHEDULE, QM9, noise, num_steps=1001)


def test_a_denoiser_of_levels_is_an_eps_network_too() -> None:
    """ε̂ = (z − α x̂)/σ, so that z = α x̂ + σ ε̂."""
    backbone = {"name": "egnn", "channels": 8, "num_layers": 1, "update_pos": True, "num_radial": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build_backbone(fit_backbone(backbone, num_types=4))
        denoiser = Denoiser(made, elements=[1, 6, 7, 8], levels=build_levels({"name": "karras"})).double()
    denoiser.requires_grad_(False)
    z, t = noise(3, num_feats=4), times(400)
    gamma = SCHEDULE.gamma(t)
    eps = eps_of_denoiser(denoiser, SCHEDULE)(z, t)
    clean = denoiser(z.scaled(1 / alpha(gamma)), torch.exp(gamma / 2)).clean
    back = diffuse(clean, eps, gamma)
    torch.testing.assert_close(back.pos, z.pos)
    torch.testing.assert_close(back.feats, z.feats)
    assert centroids(eps) < 1e-12


# scaling


def test_molecules_come_back_from_their_clouds() -> None:
    pos, types, charges = noise(4).pos, torch.arange(13) % 5, torch.arange(13) - 6
    scaling = FeatureScaling(5, pos=1.7, types=4.0, charge=10.0)
    cloud = scaling.encode(pos + 3.0, types, charges, PTR)
    assert float(cloud.feats[:, :5].max()) == pytest.approx(0.25)
    back = scaling.decode(cloud)
    torch.testing.assert_close(back[0], pos)
    assert torch.equal(back[1], types)
    assert back[2] is not None
    assert torch.equal(back[2], charges)


def test_molecules_that_do_not_fit_the_scaling_are_refused() -> None:
    pos, types = noise(4).pos, torch.arange(13) % 5
    with pytest.raises(ConfigError, match="whether atoms have a charge"):
        QM9.encode(pos, types, None, PTR)
    with pytest.raises(ConfigError, match="types outside the scaling"):
        FeatureScaling(4, charge=None).encode(pos, types, None, PTR)
    with pytest.raises(ConfigError, match="norms of features must be positive"):
        FeatureScaling(4, types=0.0)
    with pytest.raises(ConfigError, match="norms of features must be positive"):
        FeatureScaling(4, charge=0.0)


def test_backbones_that_give_too_little_are_refused() -> None:
    z = noise(0)
    with pytest.raises(ConfigError, match="at least 6 scalars"):
        EpsModel(EDMEGNN(in_scalars=7, out_scalars=5, channels=8, num_layers=1).double())(z, times(1))
    with pytest.raises(ConfigError, match="needs a vector"):
        EpsModel(EDMEGNN(in_scalars=7, out_scalars=7, out_vectors=0, channels=8, num_layers=1).double())(z, times(1))
