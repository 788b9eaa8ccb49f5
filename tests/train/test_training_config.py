"""A configuration is checked in full before anything is computed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from geomol.errors import ConfigError
from geomol.train import load_config, parse_config
from geomol.train.prepare import prepare
from geomol.train.trainer import Trainer

GOOD = {"name": "x", "data": {"source": "a"}, "model": {"name": "egnn"}, "schedule": {"epochs": 3}}
CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
PRESETS = sorted(CONFIGS.rglob("*.toml"))


def test_defaults_fill_the_rest() -> None:
    config = parse_config(GOOD)
    assert config.loss.forces == 1.0
    assert config.run_dir == Path("runs/x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {}}, r'optimizer: unknown key; did you mean "optimiser"'),
        ({"run": {"batchsize": 3}}, r'run.batchsize: unknown key; did you mean "batch_size"'),
        ({"model": {"name": "egn"}}, r'unknown model "egn"; did you mean "egnn"'),
        ({"model": {"name": "egnn", "chanels": 3}}, r'model.chanels: unknown key; did you mean "channels"'),
        ({"optimiser": {"learning_rate": -1.0}}, r"optimiser.learning_rate: .*greater than 0, got -1.0"),
        ({"run": {"batch_size": 0}}, r"run.batch_size: .*greater than 0, got 0"),
        ({"schedule": {"epochs": float("nan")}}, r"schedule.epochs"),
        ({"schedule": {}}, r"exactly one of `epochs` and `minutes`"),
        ({"schedule": {"epochs": 1, "minutes": 1}}, r"exactly one of `epochs` and `minutes`"),
        ({"data": {"source": "a", "split": "officail_1"}}, r"data.split"),
        ({"loss": {"energy": 0, "forces": 0}}, r"loss: nothing is learned: give `energy`"),
        ({"name": "a/../b"}, r"name: .*got 'a/../b'"),
    ],
)
def test_a_fault_is_named_with_its_remedy(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({**GOOD, **change})


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**GOOD, "optimiser": {"learning_rate": -1}, "run": {"batch_size": 0}, "schedule": {"epochs": 0}})
    message = str(caught.value)
    assert all(key in message for key in ("optimiser.learning_rate", "run.batch_size", "schedule.epochs"))
    assert "\n" not in message


def test_overrides_change_single_keys(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "x"\n[data]\nsource = "a"\n[model]\nname = "egnn"\n[schedule]\nepochs = 3\n')
    config = load_config(file, ["schedule.epochs=7", "name=other", "model.channels=8", "optimiser.learning_rate=1e-3"])
    assert config.schedule.epochs == 7
    assert config.name == "other"
    assert config.model["channels"] == 8
    assert config.optimiser.learning_rate == 1e-3
    timed = load_config(file, ["schedule.minutes=2"]).schedule
    assert (timed.epochs, timed.minutes) == (None, 2)
    with pytest.raises(ConfigError, match="exactly one of"):
        load_config(file, ["schedule.minutes=2", "schedule.epochs=7"])
    with pytest.raises(ConfigError, match="key=value"):
        load_config(file, ["epochs"])
    with pytest.raises(ConfigError, match="epoch: unknown key"):
        load_config(file, ["schedule.epoch=7"])


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: .*does not exist"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml: not a TOML file"):
        load_config(tmp_path / "bad.toml")


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: str(p.relative_to(CONFIGS).with_suffix("")))
def test_every_preset_is_valid_and_named_after_its_file(path: Path) -> None:
    """A preset in a folder carries the folder's name in front, so that no two runs share a name."""
    folder = path.parent.relative_to(CONFIGS).parts
    assert load_config(path).name == "-".join([*folder, path.stem])


@pytest.mark.parametrize("path", sorted((CONFIGS / "nbody").glob("*.toml")), ids=lambda p: p.stem)
def test_every_nbody_preset_takes_a_step(path: Path, few_bodies: str) -> None:
    config = load_config(path, ["run.batch_size=3", "run.tensorboard=false"])
    trainer = Trainer(prepare(config), config)
    before = [p.detach().clone() for p in trainer.parameters]
    trainer.train_step()
    assert math.isfinite(trainer.loss_sum)
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    assert all(p.isfinite().all() for p in trainer.parameters)
    assert math.isfinite(trainer.validate()["valid_position_mse"])


def test_the_saved_configuration_of_a_run_is_a_configuration(tmp_path: Path) -> None:
    config = parse_config({**GOOD, "model": {"name": "ponita", "kernel": "polynomial", "cutoff": float("inf")}})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.model_dump()))
    assert load_config(file) == config
    file.write_text("{")
    with pytest.raises(ConfigError, match="not a JSON file"):
        load_config(file)
