"""Training learns, logs, selects the best weights, and says what is wrong."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from torch import Tensor

from geomol.checkpoint import load_model, read_manifest
from geomol.data import Structures
from geomol.errors import ConfigError, OutputError, ResumeError, TrainingDivergedError
from geomol.graph import build_graph
from geomol.potential import Potential, Prediction
from geomol.train import evaluate, parse_config, split_structures, train
from geomol.train import trainer as trainer_module
from geomol.train.lock import only_process
from geomol.train.losses import Labels, potential_loss
from geomol.train.prepare import prepare
from geomol.train.sections import LossConfig
from geomol.train.setup import energy_scale, fit_offsets
from geomol.train.trainer import Trainer

MakeConfig = Callable[..., dict]


def test_offsets_solve_the_least_squares_problem(clusters: Structures) -> None:
    elements, e0 = fit_offsets(clusters)
    counts = np.array([[(a == z).sum() for z in elements] for a in np.split(clusters.numbers, clusters.ptr[1:-1])])
    residual = clusters.energy - counts @ np.array(e0)
    assert np.abs(counts.T @ residual).max() < 1e-9
    assert energy_scale(clusters, e0, elements) == pytest.approx(np.sqrt(np.mean(clusters.forces**2)))


def test_the_exact_model_has_no_loss_and_a_shift_of_energy_has_the_stated_one(morse: Potential) -> None:
    from ase.build import bulk

    atoms = bulk("C", "fcc", a=1.9, cubic=True)
    graph = build_graph(atoms, morse.cutoff)
    out = morse(graph, stress=True)
    labels = Labels(out.energy, out.forces, out.stress)
    everything = LossConfig(kind="mse", energy=1.0, forces=1.0, stress=1.0, per_atom=True)
    assert potential_loss(out, labels, graph, 2.0, everything) == 0
    moved = Prediction(out.energy + 0.8, out.node_energy, out.forces + 0.5, out.stress)
    # (0.8 / 2 / 4 atoms)² + (0.5 / 2)²
    assert potential_loss(moved, labels, graph, 2.0, everything).item() == pytest.approx(0.01 + 0.0625)
    norm = LossConfig(kind="norm", energy=1.0, forces=1.0)
    assert potential_loss(moved, labels, graph, 2.0, norm).item() == pytest.approx(0.4 + 0.25 * np.sqrt(3), rel=1e-6)


def test_training_reduces_the_validation_error(raw_config: MakeConfig) -> None:
    config = parse_config({**raw_config(), "schedule": {"epochs": 30, "warmup_steps": 5}})
    result = train(config)
    rows = list(csv.DictReader((result.run_dir / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 30
    errors = [float(r["valid_force_mae_eV_per_A"]) for r in rows]
    assert errors[-1] < 0.5 * errors[0]
    assert float(rows[-1]["lr"]) == pytest.approx(0.0, abs=1e-12)
    assert result.best["valid_force_mae_eV_per_A"] == min(errors)
    assert json.loads((result.run_dir / "summary.json").read_text())["finished"] is True


def test_the_saved_model_is_the_best_average_and_carries_its_provenance(raw_config: MakeConfig) -> None:
    config = parse_config(raw_config())
    result = train(config)
    model = load_model(result.run_dir / "model.safetensors")
    prepared = prepare(config)
    errors = evaluate(model, prepared.parts["valid"]).metrics
    assert errors["force_mae_eV_per_A"] == pytest.approx(result.best["valid_force_mae_eV_per_A"], rel=1e-9)
    manifest = read_manifest(result.run_dir / "model.safetensors")
    assert manifest["provenance"]["data_sha256"] == prepared.data_hash
    assert manifest["provenance"]["config"]["run.seed"] == 0


def test_rotation_augmentation_turns_positions_and_forces_together(raw_config: MakeConfig, morse: Potential) -> None:
    from geomol.geometry import random_rotations

    prepared = prepare(parse_config(raw_config()))
    rotation = random_rotations(3, generator=torch.Generator().manual_seed(0))
    graph, labels = prepared.train.batch(torch.tensor([5, 0, 7]), rotation)
    torch.testing.assert_close(morse(graph).forces, labels.forces, atol=1e-9, rtol=0)
    unturned = prepared.train.batch(torch.tensor([5, 0, 7]))[1]
    assert (morse(graph).forces - unturned.forces).abs().max() > 0.1  # the control


def test_a_label_of_nan_stops_training_with_a_diagnosis(raw_config: MakeConfig) -> None:
    config = parse_config(raw_config())
    prepared = prepare(config)
    prepared.train.forces[0] = torch.nan
    trainer = Trainer(prepared, config)
    while 0 not in trainer.batch_index():  # up to the batch that holds the bad label
        trainer.train_step()
    before = [p.detach().clone() for p in prepared.model.parameters()]
    with pytest.raises(TrainingDivergedError, match=r"step \d+.*finite weights"):
        trainer.train_step()
    assert all(torch.equal(a, b) for a, b in zip(before, prepared.model.parameters(), strict=True))


def test_the_loss_is_read_after_the_derivatives_are_launched_and_before_the_weights_change(
    raw_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, the host waits where it reads a number; here the order in which things are done is seen."""
    config = parse_config(raw_config())
    trainer, done = Trainer(prepare(config), config), []

    def on_its_way(loss: Tensor) -> Callable[[], float]:
        return lambda: (done.append("read"), loss.item())[1]

    monkeypatch.setattr(trainer_module, "on_its_way", on_its_way)
    trainer.parameters[0].register_hook(lambda gradient: done.append("derivative"))
    trainer.optimisers[0].register_step_pre_hook(lambda *_: done.append("step"))
    trainer.train_step()
    assert done == ["derivative", "read", "step"]


def test_another_configuration_in_the_same_folder_is_refused(raw_config: MakeConfig) -> None:
    train(parse_config(raw_config()))
    with pytest.raises(ResumeError, match=r"loss.energy: 0.02 → 0.5.*--overwrite"):
        train(parse_config({**raw_config(), "loss": {"energy": 0.5}}))
    longer = {**raw_config(), "schedule": {"epochs": 5, "warmup_steps": 5}}
    result = train(parse_config(longer), allow=["schedule.epochs"])
    assert result.steps == 30


def test_overwriting_removes_the_earlier_run_and_nothing_else(raw_config: MakeConfig) -> None:
    folder = train(parse_config(raw_config())).run_dir
    (folder / "md").mkdir()
    (folder / "md" / "old.csv").write_text("x")
    (folder / "notes.txt").write_text("mine")
    result = train(parse_config({**raw_config(), "loss": {"energy": 0.5}}), overwrite=True)
    assert result.steps == 24
    assert not (folder / "md").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert len((folder / "metrics.csv").read_text().splitlines()) == 5


def test_other_data_in_the_same_folder_is_refused(raw_config: MakeConfig, clusters_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.extxyz"
    copy.write_text(clusters_file.read_text())
    raw = raw_config()
    raw["data"]["source"] = str(copy)
    train(parse_config(raw))
    lines = copy.read_text().splitlines(keepends=True)
    fields = lines[2].split()
    fields[1] = str(float(fields[1]) + 1e-4)
    lines[2] = " ".join(fields) + "\n"
    copy.write_text("".join(lines))
    with pytest.raises(ResumeError, match="data changed"):
        train(parse_config(raw))


def test_a_foreign_folder_is_left_alone(raw_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        train(parse_config(raw_config()))
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


def test_an_absent_device_is_refused_with_those_that_exist(raw_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r'device "cuda:7" does not exist here.*cpu'):
        train(parse_config(raw_config(device="cuda:7")))


def test_two_processes_cannot_train_in_one_folder(raw_config: MakeConfig) -> None:
    config = parse_config(raw_config())
    with only_process(config.run_dir), pytest.raises(ResumeError, match="another process is training"):
        train(config)
    assert train(config).finished  # free again


def test_a_file_system_without_locks_is_not_another_process(
    raw_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study would wait for ever for who is not there."""

    def unlockable(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("geomol.train.lock.fcntl.flock", unlockable)
    with pytest.raises(OutputError, match=r"knows no locks.*No locks available; choose a folder on a local disk"):
        train(parse_config(raw_config()))


def test_missing_splits_are_explained(clusters: Structures, raw_config: MakeConfig) -> None:
    data = parse_config({**raw_config(), "data": {"source": "x"}}).data
    with pytest.raises(ConfigError, match="no stored train and valid parts"):
        split_structures(clusters, data)
    with pytest.raises(ConfigError, match="official"):
        split_structures(clusters, data.model_copy(update={"split": "official_1"}))


def test_training_leaves_global_state_alone(raw_config: MakeConfig) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    train(parse_config(raw_config()))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == dtype


def test_structures_without_labels_do_not_count(clusters: Structures, morse: Potential) -> None:
    wrong = replace(clusters.subset(range(6)), splits={})
    shift = np.arange(6.0)
    forces = wrong.forces + np.repeat(shift, np.diff(wrong.ptr))[:, None]
    all_known = evaluate(morse, replace(wrong, energy=wrong.energy + shift, forces=forces))
    assert "num_with_forces" not in all_known.metrics
    assert all_known.metrics["energy_mae_eV"] == pytest.approx(2.5)
    forces[wrong.ptr[3] :] = np.nan
    energy = wrong.energy + shift
    energy[0] = np.nan
    some = evaluate(morse, replace(wrong, energy=energy, forces=forces))
    assert (some.metrics["num_with_energy"], some.metrics["num_with_forces"]) == (5, 3)
    assert some.metrics["energy_mae_eV"] == pytest.approx(3.0)
    of_each = np.repeat(shift, np.diff(wrong.ptr))[: wrong.ptr[3]]
    assert some.metrics["force_mae_eV_per_A"] == pytest.approx(of_each.mean())
    first = wrong.numbers[: wrong.ptr[3]]
    assert some.per_element == {z: pytest.approx(of_each[first == z].mean()) for z in np.unique(first).tolist()}
    crystal = bulk("C", "diamond", 3.4)
    crystal.calc = SinglePointCalculator(crystal, energy=0.0, forces=np.zeros((2, 3)), stress=np.zeros(6))
    alone = Structures.from_atoms([crystal])
    mixed = Structures.from_atoms([Atoms("CH", [[0, 0, 0], [0, 0, 1.4]]), crystal])
    found = evaluate(morse, mixed).metrics
    assert found["num_with_stress"] == 1
    assert found["stress_mae_eV_per_A3"] == pytest.approx(evaluate(morse, alone).metrics["stress_mae_eV_per_A3"])
    none = evaluate(morse, replace(wrong, forces=np.full_like(forces, np.nan)))
    assert none.metrics["num_with_forces"] == 0
    assert not [key for key in none.metrics if key.startswith("force_")]
