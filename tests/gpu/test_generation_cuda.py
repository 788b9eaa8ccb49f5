"""Generation on a CUDA device: the same estimates and molecules as on the CPU, and a recipe that trains compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from geomol.diffusion import Denoiser, Karras, fit_backbone, gaussian_cloud
from geomol.generate import SampleSettings, make_requests, sample
from geomol.symmetry import build_backbone
from geomol.train import load_config, train

pytestmark = pytest.mark.gpu
CONFIG = Path(__file__).parents[2] / "examples" / "configs" / "qm9-generator-gpu.toml"


def make_denoiser(**settings: object) -> Denoiser:
    config = {"name": "conditioned_egnn", "channels": 32, "pair_channels": 16, "num_layers": 2, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone(fit_backbone(config, num_types=4, bond_channels=8))
        denoiser = Denoiser(backbone, elements=[1, 6, 7, 8], levels=Karras(), bond_channels=8, sizes={9: 1, 12: 2})
        for p in denoiser.parameters():  # layers that start at 0 would hide differences
            torch.nn.init.normal_(p, std=0.1)
    return denoiser.eval()


def test_estimates_are_those_of_the_cpu() -> None:
    denoiser = make_denoiser().double()
    ptr = torch.tensor([0, 9, 21, 26])
    noisy = gaussian_cloud(ptr, 4, [torch.Generator().manual_seed(i) for i in range(3)], dtype=torch.float64)
    level = torch.tensor([0.01, 0.5, 5.0], dtype=torch.float64)
    here = denoiser(noisy, level)
    there = denoiser.cuda()(
        gaussian_cloud(ptr.cuda(), 4, [torch.Generator().manual_seed(i) for i in range(3)], dtype=torch.float64),
        level.cuda(),
    )
    assert (here.clean.pos - there.clean.pos.cpu()).abs().max() < 1e-9
    assert here.logits is not None
    assert there.logits is not None
    assert (here.logits - there.logits.cpu()).abs().max() < 1e-9


def test_molecules_are_those_of_the_cpu() -> None:
    denoiser = make_denoiser().double()
    requests = make_requests(5, seed=0, sizes=denoiser.sizes)
    here = sample(denoiser, requests, SampleSettings(steps=8))
    there = sample(denoiser.cuda(), requests, SampleSettings(steps=8))
    for a, b in zip(here, there, strict=True):
        assert (a.numbers == b.numbers).all()
        assert abs(a.pos - b.pos).max() < 1e-6


def test_half_precision_stays_inside_the_networks_of_pairs() -> None:
    """bfloat16 has three digits; positions keep float32, so that an estimate moves by its rounding and no more."""
    plain, half = make_denoiser().cuda(), make_denoiser(bf16=True).cuda()
    ptr = torch.tensor([0, 9, 21], device="cuda")
    noisy = gaussian_cloud(ptr, 4, [torch.Generator().manual_seed(i) for i in range(2)])
    level = torch.tensor([0.05, 1.0], device="cuda")
    with torch.no_grad():
        a, b = plain(noisy, level).clean.pos, half(noisy, level).clean.pos
    assert b.dtype == torch.float32
    assert 0 < float((a - b).norm() / (a - noisy.pos).norm()) < 0.05


def test_the_recipe_for_a_gpu_trains(tmp_path: Path, benchmark_data: Path) -> None:
    overrides = ["schedule.minutes=0.5", f"run.folder={tmp_path}", "data.num_train=4000", "data.num_valid=200"]
    result = train(load_config(CONFIG, [*overrides, "run.tensorboard=false"]))
    assert result.finished
    assert result.best["valid_loss"] < 2.0
