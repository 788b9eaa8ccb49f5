"""Forecasting: training on the n-body benchmark, its figures, and commands that are for potentials only."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

import geomol
from geomol.checkpoint import read_manifest, save_model
from geomol.cli import main
from geomol.cli.train import describe
from geomol.data import load_nbody
from geomol.errors import ConfigError, GeomolError
from geomol.forecast import Forecaster
from geomol.geometry import random_rotations
from geomol.md import GeomolCalculator
from geomol.models import EGNN
from geomol.potential import Potential
from geomol.report import save_plots, write_report
from geomol.train import Progress, evaluate_forecast, parse_config, train
from geomol.train.forecast_task import equivariance_error, position_mse
from geomol.train.prepare import prepare

MakeConfig = Callable[..., dict]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def trained(forecast_config: MakeConfig) -> Path:
    return train(parse_config(forecast_config("egnn", epochs=2))).run_dir


def test_training_beats_standing_still_and_the_best_weights_are_kept(forecast_config: MakeConfig) -> None:
    result = train(parse_config(forecast_config("egnn", epochs=20)))
    rows = list(csv.DictReader((result.run_dir / "metrics.csv").read_text().splitlines()))
    errors = [float(row["valid_position_mse"]) for row in rows]
    valid = load_nbody().split("valid")
    assert min(errors) < 0.5 * np.mean((valid.target - valid.pos) ** 2)
    assert result.best["valid_position_mse"] == min(errors)
    model = geomol.load(result.run_dir / "model.safetensors")
    assert isinstance(model, Forecaster)
    assert not model.training
    assert evaluate_forecast(model, load_nbody(), "valid")["position_mse"] == pytest.approx(min(errors), rel=1e-9)
    assert read_manifest(result.run_dir)["errors"] == {"valid_position_mse": min(errors)}
    assert read_manifest(result.run_dir)["provenance"]["num_train"] == 40


def test_the_mse_is_the_mean_over_coordinates(forecast_config: MakeConfig) -> None:
    """The witness forecasts with one system at a time."""
    prepared = prepare(parse_config(forecast_config("gnn")))
    model = prepared.model.eval()
    squares = []
    for k in range(len(prepared.valid)):
        graph, target = prepared.valid.batch(torch.tensor([k]))
        squares.append((model(graph) - target).detach().numpy() ** 2)
    assert position_mse(model, prepared.valid) == pytest.approx(np.mean(squares), rel=1e-12)


def test_positions_velocities_and_targets_turn_together(forecast_config: MakeConfig) -> None:
    part = prepare(parse_config(forecast_config("gnn"))).train
    index = torch.tensor([7, 0, 31])
    turn = random_rotations(3, generator=torch.Generator().manual_seed(1))
    turn[1] *= -1  # a mirrored one
    plain, later = part.batch(index)
    turned, later_turned = part.batch(index, turn)
    each = turn[plain.batch]
    for before, after in (
        (plain.pos, turned.pos),
        (plain.node_vectors[:, 0], turned.node_vectors[:, 0]),
        (later, later_turned),
    ):
        torch.testing.assert_close(after, torch.einsum("nij,nj->ni", each, before), atol=1e-12, rtol=0)
        assert (after - before).abs().max() > 0.1  # the control: they did turn
        assert (after - torch.einsum("nji,nj->ni", each, before)).abs().max() > 0.1  # and not the other way round
    assert torch.equal(plain.node_scalars, turned.node_scalars)
    witness = load_nbody().split("train")
    np.testing.assert_allclose(turned.node_vectors[5:10, 0], witness.velocity[0] @ turn[1].numpy().T, atol=1e-12)


def test_the_equivariance_error_tells_models_with_symmetry_from_those_without(forecast_config: MakeConfig) -> None:
    errors = {}
    for name in ("egnn", "gnn"):
        prepared = prepare(parse_config(forecast_config(name)))
        errors[name] = equivariance_error(prepared.model.eval(), prepared.valid)
        assert errors[name] == equivariance_error(prepared.model, prepared.valid), "evaluation repeats"
    assert errors["egnn"] < 1e-12
    assert errors["gnn"] > 1e-2


def test_a_model_that_moves_nothing_is_equivariant(forecast_config: MakeConfig) -> None:
    prepared = prepare(parse_config(forecast_config({"name": "linear_motion"})))
    with torch.no_grad():
        for p in prepared.model.parameters():
            p.zero_()
    assert equivariance_error(prepared.model, prepared.valid) == 0.0


def test_calibration_does_not_depend_on_the_random_state_of_the_process(
    forecast_config: MakeConfig, gnn_settings: dict
) -> None:
    """Dropout in a pose network would otherwise draw from it."""
    model = {"name": "canonical", "pose": {"name": "vn_deep_sets", "dropout": 0.5}, "backbone": gnn_settings}
    config = parse_config(forecast_config(model, calibrate=True))
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        weights.append(torch.cat([p.flatten() for p in prepare(config).model.parameters()]))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*weights)


def test_settings_without_effect_on_a_forecast_are_refused(forecast_config: MakeConfig) -> None:
    raw = forecast_config("gnn")
    with pytest.raises(ConfigError, match=r"loss: of no use in task = .forecast."):
        parse_config({**raw, "loss": {"energy": 1.0}})
    with pytest.raises(ConfigError, match=r"data.split: of no use.*data.num_valid: of no use"):
        parse_config({**raw, "data": {"source": "x", "split": "random", "num_valid": 3}})
    assert parse_config({**raw, "data": {"source": "x", "num_train": 3}}).data.num_train == 3
    with pytest.raises(ConfigError, match=r"num_train exceeds.*up to 40.*41"):
        train(parse_config({**raw, "data": {**raw["data"], "num_train": 41}}))


def test_a_misspelt_key_of_a_wrapped_model_is_named_with_the_nearest(
    forecast_config: MakeConfig, gnn_settings: dict
) -> None:
    wrapped = {"name": "canonical", "pose": {"name": "vn_deep_sets"}, "backbone": gnn_settings}
    for change, message in (
        ({"backbone": {**gnn_settings, "chanels": 3}}, r'model.backbone.chanels: unknown key; did you mean "channels"'),
        ({"backbone": {"name": "mpn"}}, r'model.backbone.name: unknown model "mpn"; did you mean "mpnn"'),
        ({"backbone": "mpnn"}, r'model.backbone: "canonical" wraps another model'),
        ({"pose": {"name": "vn_deep_set"}}, r'model.pose.name: unknown .* did you mean "vn_deep_sets"'),
        ({"pose": {"name": "vn_deep_sets", "dropuot": 1}}, r'model.pose.dropuot: unknown key; did you mean "dropout"'),
        ({"grup": "E(3)"}, r'model.grup: unknown key; did you mean "group"'),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config(forecast_config({**wrapped, **change}))
    for name in ([1], None):
        with pytest.raises(ConfigError, match=r"model\.name"):
            parse_config(forecast_config({"name": name}))


def test_a_backbone_without_vectors_is_refused(forecast_config: MakeConfig, gnn_settings: dict) -> None:
    settings = {**gnn_settings, "out_vectors": 0, "out_scalars": 1}
    with pytest.raises(ConfigError, match="a forecast needs a vector per node"):
        train(parse_config(forecast_config(settings)))


def test_eval_prints_and_keeps_the_figures_of_a_part(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for _ in range(2):
        assert main(["eval", str(trained), "nbody/charged5", "--split", "test", "--json", "-"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0] == evaluate_forecast(geomol.load(trained), load_nbody(), "test")
    assert found[0]["num_systems"] == 20
    assert found[0]["position_mse_turned"] == pytest.approx(found[0]["position_mse"], rel=1e-9)  # EGNN
    assert json.loads((trained / "eval" / "test.json").read_text()) == found[0]


def test_report_and_plots_show_the_error_of_positions_without_units_of_energy(trained: Path) -> None:
    names = [path.name for path in save_plots(trained)]
    assert names == ["loss.png", "valid_position.png", "lr.png"]
    page = write_report(trained).read_text()
    assert "Validation position error" in page
    assert "meV" not in page


def test_the_progress_line_shows_the_error_of_positions() -> None:
    latest = {"valid_position_mse": 0.01234}
    assert describe(Progress(1, 2, 0.5, 1.0, 0.5, latest, 0.01)) == "epoch 2  loss 0.5  position mse 0.0123"


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "{run}", "{xyz}", "-o", "{out}"],
        ["md", "{run}", "{xyz}", "--steps", "2", "-o", "{out}"],
        ["relax", "{run}", "{xyz}", "-o", "{out}"],
        ["bench", "cost", "{run}", "{xyz}"],
    ],
    ids=lambda command: " ".join(command[:2]).removesuffix(" {run}"),
)
def test_commands_for_potentials_refuse_a_forecaster_in_one_line(
    command: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xyz, out = tmp_path / "water.xyz", tmp_path / "out.extxyz"
    ase.io.write(xyz, molecule("H2O"))
    assert main([word.format(run=trained, xyz=xyz, out=out) for word in command]) == 2
    assert "predicts no energies" in one_line(capsys)
    assert not out.exists()


def test_a_forecaster_is_published_and_refused_by_the_calculator(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(trained), "-o", str(tmp_path / "published")]) == 0
    assert "position mse" in capsys.readouterr().out
    card = (tmp_path / "published" / "README.md").read_text()
    assert f"| position mse | {read_manifest(tmp_path / 'published')['errors']['position_mse']:.4g} |" in card
    with pytest.raises(ConfigError, match="predicts no energies"):
        GeomolCalculator(str(trained))
    with pytest.raises(ConfigError, match="predicts no energies"):
        GeomolCalculator(geomol.load(trained))  # type: ignore[arg-type]


def test_models_and_data_of_different_kinds_do_not_meet(
    trained: Path, clusters_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(trained), str(clusters_file)]) == 2
    assert "no n-body data set" in one_line(capsys)
    backbone = EGNN(elements=[1], channels=4, num_layers=1, cutoff=3.0)
    potential = Potential(backbone, elements=[1], e0=[0.0])
    save_model(tmp_path / "model.safetensors", potential, provenance={}, errors={}, symmetry={})
    assert main(["eval", str(tmp_path), "nbody/charged5"]) != 0
    assert "nbody/charged5" in one_line(capsys)


def test_molecules_cannot_be_forecast_and_particles_have_no_energies(
    forecast_config: MakeConfig, raw_config: MakeConfig, clusters_file: Path
) -> None:
    with pytest.raises(ConfigError, match="no n-body data set"):
        train(parse_config({**forecast_config("gnn"), "data": {"source": str(clusters_file)}}))
    with pytest.raises(GeomolError, match="nbody/charged5"):
        train(parse_config({**raw_config(), "data": {"source": "nbody/charged5"}}))
