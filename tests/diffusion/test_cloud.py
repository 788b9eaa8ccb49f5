"""Clouds: centroids, noise with the right statistics, and numbers that depend on the structure alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geomol.diffusion import Cloud, gaussian_cloud, zero_mean

PTR = torch.tensor([0, 3, 4, 9])


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def centroids(cloud: Cloud) -> Tensor:
    return torch.stack([part.mean(0) for part in cloud.pos.split(cloud.ptr.diff().tolist())])


def test_zero_mean_is_the_projection_without_translations() -> None:
    pos = torch.randn(9, 3, dtype=torch.float64) + 7
    out = zero_mean(pos, PTR)
    expected = torch.cat([part - part.mean(0) for part in pos.split([3, 1, 5])])
    assert torch.allclose(out, expected, atol=1e-14)
    assert torch.allclose(zero_mean(out, PTR), out, atol=1e-14)
    assert not out[3].any(), "a single atom lies at the origin"


def test_arithmetic_acts_on_both_parts_and_by_structure() -> None:
    a, b = (Cloud(torch.randn(9, 3), torch.randn(9, 2), PTR) for _ in range(2))
    factor = torch.tensor([1.0, -2.0, 0.5])
    by_hand = torch.tensor([1.0] * 3 + [-2.0] + [0.5] * 5)[:, None]
    scaled, total = a.scaled(factor), a.plus(b)
    assert torch.equal(scaled.pos, a.pos * by_hand)
    assert torch.equal(scaled.feats, a.feats * by_hand)
    assert torch.equal(a.scaled(2.0).feats, a.feats * 2)
    assert torch.equal(total.pos, a.pos + b.pos)
    assert torch.equal(total.feats, a.feats + b.feats)
    assert torch.equal(a.centred().feats, a.feats)
    assert centroids(a.centred()).abs().max() < 1e-6
    assert a.num_graphs == 3
    assert a.batch.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert scaled.batch is a.batch, "not made again for every sum"


def test_noise_is_standard_normal_in_the_centred_subspace() -> None:
    """Variance of positions 1 − 1/n, covariance of two nodes −1/n, features white; bars of four standard errors."""
    n, copies = 4, 4000
    noise = gaussian_cloud(
        n * torch.arange(copies + 1), 2, [torch.Generator().manual_seed(s) for s in range(copies)], dtype=torch.float64
    )
    assert centroids(noise).abs().max() < 1e-15
    pos = noise.pos.view(copies, n, 3).transpose(1, 2).reshape(-1, n)
    covariance = pos.T @ pos / len(pos)
    bar = 4 * (2 / len(pos)) ** 0.5
    assert (covariance - (torch.eye(n) - 1 / n)).abs().max() < bar
    assert (covariance - torch.eye(n)).abs().max() > bar, "the control: uncentred noise would be seen"
    assert abs(float(noise.feats.var()) - 1) < 4 * (2 / noise.feats.numel()) ** 0.5
    assert abs(float(noise.feats.mean())) < 4 / noise.feats.numel() ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_structure_gets_depends_on_its_seed_alone(dtype: torch.dtype) -> None:
    together = gaussian_cloud(PTR, 2, generators([5, 6, 7]), dtype=dtype)
    alone = gaussian_cloud(torch.tensor([0, 5]), 2, generators([7]), dtype=dtype)
    assert torch.allclose(together.pos[4:], alone.pos, atol=1e-6 if dtype == torch.float32 else 1e-15)
    assert torch.equal(together.feats[4:], alone.feats)
    assert together.pos.dtype == together.feats.dtype == dtype
    control = gaussian_cloud(torch.tensor([0, 5]), 2, generators([8]), dtype=dtype)
    assert not torch.allclose(control.feats, alone.feats)


def test_precision_changes_rounding_only() -> None:
    single, double = (gaussian_cloud(PTR, 2, generators([1, 2, 3]), dtype=d) for d in (torch.float32, torch.float64))
    assert torch.equal(single.feats, double.feats.float())


def test_generators_must_be_as_many_as_structures() -> None:
    with pytest.raises(ValueError, match="shorter"):
        gaussian_cloud(PTR, 2, generators([1, 2]))
