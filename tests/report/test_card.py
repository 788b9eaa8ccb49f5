"""A published model carries what was measured on it, and the card says the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from geomol.checkpoint import load_model, read_manifest
from geomol.data import Structures, write_extxyz
from geomol.errors import ConfigError, DataError, OutputError
from geomol.models import Morse
from geomol.potential import Potential
from geomol.report import publish
from geomol.train import evaluate, parse_config, predict, train
from geomol.train.setup import load_splits


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    base = np.array([[0, 0, 0], [1.3, 0, 0], [0, 1.3, 0]])
    plain = Structures.from_atoms([Atoms("CH2", base + rng.normal(scale=0.1, size=(3, 3))) for _ in range(40)])
    morse = Potential(Morse(depth=1.0, a=1.6, r0=1.3, cutoff=4.0), elements=[1, 6], e0=[-1.0, -2.0])
    out = predict(morse, plain)
    labelled = Structures(**{**plain.__dict__, "energy": out.energy, "forces": out.forces})
    write_extxyz(folder / "set.extxyz", labelled)
    config = parse_config(
        {
            "name": "small",
            "data": {"source": str(folder / "set.extxyz"), "split": "random", "num_train": 20, "num_valid": 8},
            "model": {"name": "ponita", "channels": 8, "num_layers": 1, "cutoff": 4.0},
            "schedule": {"epochs": 2},
            "run": {"folder": str(folder), "threads": 1, "tensorboard": False},
        }
    )
    return train(config).run_dir


def test_the_card_states_the_errors_on_the_test_part(run_dir: Path, tmp_path: Path) -> None:
    published = publish(run_dir, tmp_path / "model", command="geomol train small.toml")
    config = parse_config(json.loads((tmp_path / "model" / "config.json").read_text()))
    test = load_splits(config.data)[1]["test"]
    errors = evaluate(load_model(tmp_path / "model"), test).metrics
    assert errors == published.metrics
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"{1e3 * errors['force_mae_eV_per_A']:.2f} / {1e3 * errors['force_rmse_eV_per_A']:.2f} meV/Å" in card
    assert "| test structures | 12 |" in card
    assert "`geomol train small.toml`" in card
    assert "energy drift" not in card  # nothing was simulated


def test_the_manifest_holds_the_measured_symmetry_of_a_grid_model(run_dir: Path, tmp_path: Path) -> None:
    publish(run_dir, tmp_path / "model", command="x")
    symmetry = read_manifest(tmp_path / "model")["symmetry"]
    assert symmetry["claimed"]["exact"] is False
    assert symmetry["measured"]["rotation_energy_error_eV"] > 1e-9
    assert symmetry["measured"]["net_torque_eV"] > 1e-9


def test_simulations_at_constant_energy_enter_the_card(run_dir: Path, tmp_path: Path) -> None:
    info = {"drift_meV_per_atom_per_ns": 0.25, "drift_95_meV_per_atom_per_ns": 0.125, "time_ps": 20.0}
    (run_dir / "md").mkdir()
    try:
        (run_dir / "md" / "nve.json").write_text(json.dumps({**info, "settings": {"timestep_fs": 0.5}}))
        publish(run_dir, tmp_path / "model", command="x")
    finally:
        (run_dir / "md" / "nve.json").unlink()
        (run_dir / "md").rmdir()
    card = (tmp_path / "model" / "README.md").read_text()
    assert "0.25 ± 0.125 (95 %) meV/atom/ns (nve: 20 ps at 0.5 fs, NVE)" in card


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no trained model.*config\.json"):
        publish(tmp_path, tmp_path / "out", command="x")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_keeps_its_readme(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=f"{tmp_path}: this folder holds something else than a model.*models/mine"):
        publish(run_dir, tmp_path, command="")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(ConfigError, match="something else than a model"):
        publish(run_dir, run_dir, command="")  # a run has more than a model to lose
    with pytest.raises(OutputError, match=r"README\.md: the folder cannot be made"):
        publish(run_dir, tmp_path / "README.md", command="")
    publish(run_dir, tmp_path / "new", command="first")
    publish(run_dir, tmp_path / "new", command="second")  # of a model, a newer one takes the place
    assert "second" in (tmp_path / "new" / "README.md").read_text()
