"""Whole runs that learn to make molecules: snapshots, exact resume, a trained start, tables of sizes, charges."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from train.small_generator import MODEL

from geomol.checkpoint import load_denoiser
from geomol.diffusion import Denoiser, Estimate, FeatureScaling, Karras
from geomol.errors import ConfigError
from geomol.generate import SampleSettings, sample
from geomol.generate.request import make_requests
from geomol.train import evaluate_generation, parse_config, train
from geomol.train.generation_task import prepare_generation
from geomol.train.start import start_from


def folder_of(settings: dict) -> Path:
    return Path(settings["run"]["folder"]) / settings["name"]


def test_a_run_leaves_a_denoiser_its_course_and_a_snapshot_of_every_validation(settings_of) -> None:
    settings = settings_of(epochs=4, snapshots=True)
    assert train(parse_config(settings)).finished
    folder = folder_of(settings)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [6, 12, 18, 24]
    names = sorted(path.name for path in (folder / "snapshots").iterdir())
    assert names == [f"step-{step:07d}.safetensors" for step in (6, 12, 18, 24)]
    best = min(rows, key=lambda row: float(row["valid_loss"]))
    kept = load_denoiser(folder / "model.safetensors").state_dict()
    snapshot = load_denoiser(folder / "snapshots" / f"step-{int(best['step']):07d}.safetensors").state_dict()
    assert all(torch.equal(kept[key], snapshot[key]) for key in kept)
    prepared = prepare_generation(parse_config(settings))
    prepared.model.load_state_dict(kept)
    again = prepared.task.errors(prepared.model.eval(), prepared.valid)
    assert again["valid_loss"] == pytest.approx(float(best["valid_loss"]), rel=1e-5)
    assert float(rows[-1]["valid_loss"]) < float(rows[0]["valid_loss"])


FILES = ["model.safetensors", "metrics.csv"]
SCRIPT = """
import json, sys
from geomol.train import evaluate_generation, parse_config, train
train(parse_config(json.load(open(sys.argv[1]))))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(settings_of, tmp_path: Path) -> None:
    generation = {"conditions": ["heavy_atoms"], "process": {"name": "flow"}, "coupling": "optimal_transport"}
    whole = settings_of(generation, epochs=30, folder="whole")
    killed = settings_of(generation, epochs=30, folder="killed", save_every_minutes=0.002)
    train(parse_config(whole))
    (tmp_path / "config.json").write_text(json.dumps(killed))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "config.json")], stderr=subprocess.PIPE)
    state, deadline = folder_of(killed) / "state.safetensors", time.monotonic() + 120
    while time.monotonic() < deadline and not state.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before the kill: make it longer"
    train(parse_config(killed))
    for name in FILES:
        assert (folder_of(killed) / name).read_bytes() == (folder_of(whole) / name).read_bytes()


def test_training_begins_from_a_trained_generator_and_new_conditions_change_nothing_at_first(
    settings_of: Callable[..., dict], tmp_path: Path
) -> None:
    first = train(parse_config(settings_of(save_every_minutes=1.0)))
    told = settings_of({"conditions": ["heavy_atoms"]}, folder="told", start=str(first.run_dir / "model.safetensors"))
    prepared = prepare_generation(parse_config(told))
    trained = load_denoiser(first.run_dir)
    start_from(prepared.model, str(first.run_dir))
    clean, _ = prepared.valid.batch(torch.arange(4))
    level = torch.full((4,), 0.5)
    for context in (None, torch.full((4, 1), 3.0)):
        with torch.no_grad():
            ours = prepared.model.eval()(clean.cloud, level, context=context)
            theirs = trained(clean.cloud, level)
        torch.testing.assert_close(ours.clean.pos, theirs.clean.pos, rtol=0, atol=1e-6)
    result = train(parse_config(told))
    moved = load_denoiser(result.run_dir)
    with torch.no_grad():  # and with training they do
        a, b = (moved(clean.cloud, level, context=torch.full((4, 1), v)).clean.pos for v in (1.0, 6.0))
    assert float((a - b).abs().max()) > 1e-6
    again = train(parse_config(told))  # a finished run needs its start no more
    assert again.steps == result.steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {**MODEL, "num_layers": 2}}, "with other layers"),
        ({"model": {**MODEL, "channels": 12}}, "with other layers"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(settings_of: Callable[..., dict], changes: dict, message: str) -> None:
    first = train(parse_config(settings_of(epochs=1)))
    raw = settings_of(folder="other", start=str(first.run_dir)) | changes
    with pytest.raises(ConfigError, match=message):
        train(parse_config(raw))


def test_sizes_follow_the_condition_by_bayes_rule() -> None:
    denoiser = Denoiser(
        nn.Identity(),
        elements=[1, 6],
        levels=Karras(),
        conditions={"gap": (5.0, 1.0)},
        sizes={4: 30, 5: 10, 6: 60},
        condition_sizes={"gap": {4: (3.0, 0.5), 5: (5.0, 0.5), 6: (7.0, 2.0)}},
    )
    weights = denoiser.sizes_for({"gap": 5.0})
    density = {4: np.exp(-8.0) / 0.5, 5: 1 / 0.5, 6: np.exp(-0.5) / 2.0}
    expected = {size: count * density[size] for size, count in denoiser.sizes.items()}
    for size in expected:
        assert weights[size] / sum(weights.values()) == pytest.approx(expected[size] / sum(expected.values()))
    assert denoiser.sizes_for({}) == denoiser.sizes


def test_tables_of_sizes_come_with_training(settings_of: Callable[..., dict]) -> None:
    raw = settings_of({"conditions": ["heavy_atoms"]}, epochs=1)
    denoiser = load_denoiser(train(parse_config(raw)).run_dir)
    table = denoiser.condition_sizes["heavy_atoms"]
    assert set(table) == set(denoiser.sizes)
    assert table[3][0] < table[12][0]  # water, benzene
    weights = denoiser.sizes_for({"heavy_atoms": 6.0})
    assert max(weights, key=weights.__getitem__) == 12


def test_charges_are_a_further_feature_that_is_learned_made_and_weighed(settings_of: Callable[..., dict]) -> None:
    edm = {
        "process": {"name": "variational"}, "prediction": "noise", "types": "gaussian", "charge_scale": 0.1,
        "self_conditioning": False, "bond_channels": 0,
    }  # fmt: skip
    prepared = prepare_generation(parse_config(settings_of(edm)))
    denoiser = prepared.model
    assert isinstance(denoiser, Denoiser)
    clean, _ = prepared.valid.batch(torch.arange(4))
    elements = torch.tensor(denoiser.elements)
    hot = torch.nn.functional.one_hot(clean.types, len(elements)) * 0.25
    torch.testing.assert_close(clean.cloud.feats, torch.cat([hot, 0.1 * elements[clean.types, None]], dim=1))
    encoded = denoiser.encode(clean.cloud.pos * denoiser.length_unit, elements[clean.types], clean.cloud.ptr)
    torch.testing.assert_close(encoded.feats, clean.cloud.feats)
    assert torch.equal(denoiser.decode(Estimate(encoded))[1], elements[clean.types])
    assert denoiser.scaling == FeatureScaling(len(elements), pos=denoiser.length_unit, types=4.0, charge=10.0)
    trained = load_denoiser(train(parse_config(settings_of(edm, epochs=1))).run_dir)
    made = sample(trained, make_requests(3, seed=0, sizes={9: 1}, numbers=None), SampleSettings(steps=4))
    assert [len(molecule.numbers) for molecule in made] == [9, 9, 9]
    figures = evaluate_generation(trained, prepared.parts["valid"], num_nll=4, nll_times=2)
    assert np.isfinite(figures["nll_total_nats"])
    without = prepare_generation(parse_config(settings_of({**edm, "charge_scale": 0.0}))).model
    assert sum(p.numel() for p in denoiser.parameters()) > sum(p.numel() for p in without.parameters())
    with pytest.raises(ConfigError, match="charge_scale is positive"):
        prepare_generation(parse_config(settings_of({"charge_scale": 0.1})))
