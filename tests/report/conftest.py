"""A run folder with known numbers: an ethanol-like molecule in a harmonic well, predictions with known noise. And
molecules for a gallery.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from report.gallery_case import METHANE, small_set

from geomol.generate import Molecules

STEPS = np.arange(100, 6001, 100)


@pytest.fixture(scope="session", name="make_run")
def make_run_fixture() -> Callable[..., Path]:
    """`make_run`, which writes a whole run folder."""
    return make_run


@pytest.fixture(scope="session", name="write_evaluation")
def write_evaluation_fixture() -> Callable[..., dict[str, np.ndarray]]:
    """`write_evaluation`, which writes one evaluated split."""
    return write_evaluation


@pytest.fixture(scope="session", name="write_columns")
def write_columns_fixture() -> Callable[..., None]:
    """`write_columns`, which writes a CSV."""
    return write_columns


@pytest.fixture(scope="module")
def molecules() -> Molecules:
    """The seven of a gallery."""
    return small_set()


@pytest.fixture(scope="module")
def trajectory() -> tuple[np.ndarray, np.ndarray]:
    """Positions and elements of methane as noise leaves it, in 101 steps; its carbon begins as oxygen."""
    rng = np.random.default_rng(0)
    amount = np.linspace(1.0, 0.0, 101)[:, None, None]
    pos = 2.0 + METHANE + amount * rng.normal(size=(101, 5, 3))
    numbers = np.tile([6, 1, 1, 1, 1], (101, 1))
    numbers[:50, 0] = 8
    return pos, numbers


def make_run(folder: Path, *, structures: int = 60, md_frames: int = 40, seed: int = 7) -> Path:
    """Write a whole run folder and return it."""
    rng = np.random.default_rng(seed)
    for name in ("eval", "md"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_training(folder, rng)
    write_evaluation(folder, "test_1", rng, structures)
    write_simulation(folder / "md", "nve-300K", rng, md_frames)
    return folder


def write_training(folder: Path, rng: np.random.Generator) -> None:
    config = {"seed": 7, "data": {"source": "rmd17/ethanol", "train": 950}, "model": {"name": "ponita", "channels": 64}}
    summary = {"num_parameters": 123456, "training_minutes": 12.57, "finished": True, "best": {"step": 5800}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(summary))
    decay = np.exp(-STEPS / 1500.0)
    noise = np.exp(0.06 * rng.normal(size=(3, len(STEPS))))
    columns = {
        "step": STEPS,
        "epoch": STEPS / 190.0,
        "lr": 1e-3 * 0.5 * (1 + np.cos(np.pi * STEPS / STEPS[-1])),
        "train_loss": (0.9 * decay + 0.004) * noise[0],
        "valid_energy_mae_eV": (0.15 * decay + 0.004) * noise[1],
        "valid_force_mae_eV_per_A": (0.40 * decay + 0.010) * noise[2],
        "valid_force_rmse_eV_per_A": (0.58 * decay + 0.015) * noise[2],
    }
    write_columns(folder / "metrics.csv", columns)
    write_columns(folder / "timing.csv", {"step": STEPS, "seconds": STEPS * 0.12})


def write_evaluation(
    folder: Path,
    split: str,
    rng: np.random.Generator,
    structures: int,
    *,
    numbers: np.ndarray | None = None,
    energy: np.ndarray | None = None,
    forces: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """References (given, or drawn at random) with predictions that differ by Gaussian noise; the arrays written."""
    one = molecule("CH3CH2OH").numbers if numbers is None else numbers
    atoms = structures * len(one)
    energy = -4200.0 + rng.normal(scale=0.25, size=structures) if energy is None else energy
    forces = rng.normal(scale=1.0, size=(atoms, 3)) if forces is None else forces
    width = np.where(np.tile(one, structures) == 1, 0.009, 0.016)[:, None]
    arrays = {
        "numbers": np.tile(one, structures),
        "ptr": np.arange(0, atoms + 1, len(one)),
        "energy_ref": energy,
        "energy_pred": energy + rng.normal(scale=0.005, size=structures),
        "forces_ref": forces,
        "forces_pred": forces + width * rng.standard_t(4, size=(atoms, 3)),
    }
    np.savez(folder / "eval" / f"{split}.npz", **arrays)
    stated = {
        "force_mae_eV_per_A": float(np.abs(arrays["forces_pred"] - arrays["forces_ref"]).mean()),
        "energy_mae_eV": float(np.abs(arrays["energy_pred"] - arrays["energy_ref"]).mean()),
    }
    (folder / "eval" / f"{split}.json").write_text(json.dumps(stated))
    return arrays


def write_simulation(
    folder: Path, name: str, rng: np.random.Generator, frames: int, *, positions: np.ndarray | None = None
) -> None:
    """An NVE-like table of 10 rows per frame with a drift of 0.5 meV/atom/ns, and the frames."""
    one = molecule("CH3CH2OH")
    time = 5.0 * np.arange(10 * frames)
    kinetic = 0.35 * (1 + 0.22 * np.sin(time / 31.0) + 0.1 * rng.normal(size=time.size))
    total = -4200.0 + 0.5e-9 * len(one) * time + 2e-5 * np.sin(time / 17.0)
    columns = {
        "time_fs": time,
        "temperature_K": 2 * kinetic / (3 * len(one) * units.kB),
        "potential_eV": total - kinetic,
        "kinetic_eV": kinetic,
        "total_eV": total,
    }
    write_columns(folder / f"{name}.csv", columns)
    images = []
    for index in range(frames):
        image: Atoms = one.copy()
        if positions is None:
            image.positions += 0.04 * np.sin(0.4 * index + np.arange(3 * len(one))).reshape(-1, 3)
        else:
            image = Atoms(numbers=one.numbers, positions=positions[index])
        image.info["time_fs"] = float(time[10 * index])
        images.append(image)
    write(folder / f"{name}.extxyz", images)
    info = {
        "settings": {"ensemble": "nve", "temperature_K": 300.0, "timestep_fs": 0.5},
        "num_atoms": len(one),
        "temperature_K_mean": float(columns["temperature_K"].mean()),
    }
    (folder / f"{name}.json").write_text(json.dumps(info))


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
