"""What is said of generators: shares, symmetry errors, curves and the answer to what was asked."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from geomol.checkpoint import save_model
from geomol.data import Structures
from geomol.diffusion import Denoiser, Karras, fit_backbone
from geomol.errors import ConfigError, DataError
from geomol.generate import SampleSettings
from geomol.models import DeepSets
from geomol.properties import PropertyModel, Target
from geomol.study import (
    asked_and_got,
    counted,
    curve_figure,
    curves_json,
    equivariance_error,
    measure_denoiser,
    predicted,
    sampler_curve,
    training_curve,
)
from geomol.study.denoisers import _clock
from geomol.symmetry import build_backbone
from geomol.train import recorded_test_rows
from geomol.train.property_task import PropertyPart
from geomol.train.sections import DataConfig
from geomol.train.setup import split_rows

FEW = SampleSettings(steps=4)


def tiny(name: str = "conditioned_egnn", *, conditions: dict[str, tuple[float, float]] | None = None) -> Denoiser:
    config: dict[str, object] = {"name": name, "channels": 8, "num_layers": 1}
    if name == "conditioned_egnn":
        config |= {"pair_channels": 4, "num_vectors": 2}
    if name == "mpnn":
        config |= {"coordinates": "centred", "num_radial": 0, "edge_inputs": ["squared_distance"]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fitted = fit_backbone(config, num_types=4, num_conditions=len(conditions or {}))
        denoiser = Denoiser(
            build_backbone(fitted), elements=[1, 6, 7, 8], levels=Karras(), conditions=conditions, sizes={4: 1, 5: 2}
        )
        for p in denoiser.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return denoiser.double().eval()


def molecules(num: int = 12) -> Structures:
    rng = np.random.default_rng(0)
    sizes = rng.integers(4, 7, num)
    ptr = np.concatenate([[0], sizes.cumsum()])
    return Structures(
        name="made",
        numbers=rng.choice([1, 6, 7, 8], ptr[-1]),
        pos=1.5 * rng.normal(size=(ptr[-1], 3)),
        ptr=ptr,
        cell=np.zeros((num, 3, 3)),
        pbc=np.zeros((num, 3), dtype=bool),
    )


def test_the_symmetry_error_is_rounding_for_an_equivariant_backbone_and_large_for_a_plain_one() -> None:
    assert equivariance_error(tiny(), molecules()) < 1e-12
    assert equivariance_error(tiny("mpnn"), molecules()) > 1e-3


def test_with_a_gpu_time_is_that_on_the_wall_once_its_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", seen.append)
    monkeypatch.setattr(time, "perf_counter", lambda: seen.append("wall") or 1.0)
    monkeypatch.setattr(time, "process_time", lambda: seen.append("process") or 2.0)
    assert _clock(torch.device("cuda:1")) == 1.0
    assert _clock(torch.device("cpu")) == 2.0
    assert seen == [torch.device("cuda:1"), "wall", "process"]


def test_a_denoiser_is_measured_with_shares_strain_cost_and_symmetry() -> None:
    figures = measure_denoiser(tiny(), molecules(), num=6, settings=FEW)
    for name in ("atom_stability", "molecule_stability", "valid", "connected", "valid_unique"):
        assert 0 <= figures[name] <= 1
    assert figures["evaluations"] == 7  # Heun calls twice, but for the last of four levels
    assert figures["per_1000_s"] > 0


def test_sampler_curves_repeat_and_can_be_drawn(tmp_path: Path) -> None:
    ways = [SampleSettings(steps=3), SampleSettings(sampler="ddim", steps=3), SampleSettings(steps=3, churn=5.0)]
    points = sampler_curve(tiny(), "tiny", ways, num=5)
    assert [p.evaluations for p in points] == [5, 3, 5]
    assert points == sampler_curve(tiny(), "tiny", ways, num=5)
    assert json.loads(curves_json(points))[1]["sampler"] == "ddim"
    curve_figure(points).savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_training_curves_read_snapshots_with_their_times(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    for step in (10, 20, 30):
        path = tmp_path / "snapshots" / f"step-{step:07d}.safetensors"
        save_model(path, tiny(), provenance={"step": step}, errors={}, symmetry={})
    (tmp_path / "timing.csv").write_text("step,seconds\n10,60\n20,120\n30,180\n")
    points = training_curve(tmp_path, FEW, num=3, every=2)
    assert [p.training_minutes for p in points] == [1.0, 3.0]  # every second one, and the last
    curve_figure(points)
    with pytest.raises(DataError, match="no snapshots"):
        training_curve(tmp_path / "elsewhere", FEW, num=3)


def test_what_is_asked_for_is_compared_with_what_comes_and_with_guesses() -> None:
    data = molecules(40)
    denoiser = tiny(conditions={"heavy_atoms": (3.0, 1.0)})
    wanted = counted("heavy_atoms", data)
    rows = asked_and_got(denoiser, wanted, condition="heavy_atoms", num=8, guidances=(0.0, 1.0, 2.0), settings=FEW)
    assert [row.guidance for row in rows] == [0.0, 1.0, 2.0]
    assert len({(row.mae_size_only, row.mae_random) for row in rows}) == 1  # guesses do not depend on the model
    heavy = np.add.reduceat((data.numbers > 1).astype(float), data.ptr[:-1])
    assert rows[0].mae_random < heavy.max() - heavy.min()
    assert rows[0].mae_size_only < rows[0].mae_random + 0.5
    assert rows[0].mae_of_measure == 0.0
    with pytest.raises(ConfigError, match="not trained on"):
        asked_and_got(tiny(), wanted, condition="heavy_atoms", num=2, guidances=(1.0,), settings=FEW)
    with pytest.raises(ConfigError, match="cannot be read off"):
        counted("gap", data)


def test_a_predictor_measures_what_cannot_be_counted() -> None:
    data = molecules(12)
    backbone = DeepSets(elements=[1, 6, 7, 8], out_scalars=1, channels=8, num_layers=1)
    predictor = PropertyModel(backbone, elements=[1, 6, 7, 8], targets=[Target("gap", "eV", mean=7.0, spread=1.0)])
    values = np.linspace(5.0, 9.0, len(data))
    values[3] = np.nan
    wanted = predicted("gap", data, values, predictor)
    assert len(wanted.structures) == len(data) - 1
    part = PropertyPart.from_structures(data, values[:, None], math.inf, vector=False, device="cpu")
    told = predictor(part.batch(torch.arange(12))[0])
    np.testing.assert_allclose(wanted.measure(data), told.detach().numpy()[:, 0], rtol=1e-5)
    row = asked_and_got(
        tiny(conditions={"gap": (7.0, 1.0)}), wanted, condition="gap", num=4, guidances=(1.0,), settings=FEW
    )[0]
    assert row.mae_of_measure > 0
    with pytest.raises(ConfigError, match="does not know this property"):
        predicted("homo", data, values, predictor)


def test_a_trained_models_file_tells_which_rows_it_was_not_shown() -> None:
    data = molecules(12)
    config = {"data.source": "made", "data.split": "random", "data.num_train": 7, "data.num_valid": 2, "run.seed": 3}
    rows = recorded_test_rows({"provenance": {"config": config}}, data)
    shown = split_rows(data, DataConfig(source="made", split="random", num_train=7, num_valid=2))
    assert len(rows) == 3
    assert not set(rows) & (set(shown["train"]) | set(shown["valid"]))
    with pytest.raises(ConfigError, match="does not say what it was trained on"):
        recorded_test_rows({}, data)
