"""Tiny sets to learn from: Morse clusters, few bodies, molecules, toy clouds; and configurations of their tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from train.small_generator import MODEL, NAMES
from train.toy_clouds import INVARIANT, MakeConfig, toy

from geomol.data import Structures, nbody, write_clouds, write_extxyz
from geomol.models import Morse
from geomol.potential import Potential
from geomol.train import predict


@pytest.fixture(scope="session")
def morse() -> Potential:
    backbone = Morse(depth=1.0, a=1.6, r0=1.3, cutoff=4.0)
    return Potential(backbone, elements=[1, 6], e0=[-1.0, -2.0]).to(torch.float64)


@pytest.fixture(scope="session")
def clusters(morse: Potential) -> Structures:
    rng = np.random.default_rng(0)
    base = np.array([[0, 0, 0], [1.3, 0, 0], [0, 1.3, 0], [0, 0, 1.3], [1.1, 1.1, 0.2]])
    frames = [
        Atoms("C2H3" if k % 2 else "CH3", (base + rng.normal(scale=0.08, size=base.shape))[: 5 if k % 2 else 4])
        for k in range(40)
    ]
    plain = Structures.from_atoms(frames)
    labels = predict(morse, plain)
    for k, atoms in enumerate(frames):
        rows = slice(plain.ptr[k], plain.ptr[k + 1])
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.calc = SinglePointCalculator(atoms, energy=float(labels.energy[k]), forces=labels.forces[rows])
    return Structures.from_atoms(frames)


@pytest.fixture(scope="session")
def clusters_file(clusters: Structures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clusters") / "clusters.extxyz"
    write_extxyz(path, clusters)
    return path


@pytest.fixture
def raw_config(clusters_file: Path, tmp_path: Path) -> Callable[..., dict]:
    def make(**run: object) -> dict:
        return {
            "name": "tiny",
            "data": {"source": str(clusters_file), "split": "random", "num_train": 24, "num_valid": 8},
            "model": {"name": "ponita", "channels": 8, "num_layers": 2, "cutoff": 4.0},
            "schedule": {"epochs": 4, "warmup_steps": 5},
            "run": {"folder": str(tmp_path / "runs"), "threads": 1, "batch_size": 4, "tensorboard": False, **run},
        }

    return make


PLAIN = {"in_scalars": 1, "in_vectors": 1, "out_scalars": 0, "out_vectors": 1, "envelope": False}
SMALL = {
    "channels": 8,
    "num_layers": 2,
    "cutoff": float("inf"),
    "num_radial": 0,
    "edge_inputs": ["charge_product", "squared_distance"],
}
GNN = {"name": "mpnn", "coordinates": "absolute", **SMALL, **PLAIN}
EGNN = {"name": "egnn", "readout": "none", "update_pos": True, "speed_input": True, **SMALL, **PLAIN}


@pytest.fixture
def few_bodies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The n-body benchmark with few systems that move little, simulated into a cache of its own."""
    monkeypatch.setattr(nbody, "PARTS", {"train": (0, 40), "valid": (40, 20), "test": (60, 20)})
    monkeypatch.setitem(nbody.VARIANTS, "nbody/charged5", nbody.NBodyVariant(start=1, end=4, frequency=50))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOMOL_DATA", raising=False)
    return "nbody/charged5"


@pytest.fixture
def forecast_config(few_bodies: str, tmp_path: Path) -> Callable[..., dict]:
    """A configuration for the few bodies: `forecast_config("gnn", rotate=True)`, or with a model of one's own."""
    models = {"gnn": GNN, "egnn": EGNN}

    def make(model: str | dict, *, epochs: int = 3, **run: object) -> dict:
        return {
            "name": "bodies",
            "task": "forecast",
            "data": {"source": few_bodies},
            "model": models[model] if isinstance(model, str) else model,
            "optimiser": {"learning_rate": 3e-3, "ema": 0.9},
            "schedule": {"epochs": epochs, "warmup_steps": 3},
            "run": {
                "folder": str(tmp_path / "runs"),
                "threads": 1,
                "batch_size": 10,
                "tensorboard": False,
                "rotate": False,
                "dtype": "float64",
                **run,
            },
        }

    return make


@pytest.fixture
def gnn_settings() -> dict:
    """Settings of the plain network, to be wrapped."""
    return dict(GNN)


@pytest.fixture(scope="module")
def small_molecules() -> Structures:
    """For the tests of generators: eight kinds of molecules, rattled."""
    frames = []
    for k in range(48):
        atoms = molecule(NAMES[k % len(NAMES)])
        atoms.rattle(0.01, seed=k)
        frames.append(Atoms(atoms.numbers, atoms.positions + 3.0))
    return Structures.from_atoms(frames)


@pytest.fixture(scope="module")
def source(small_molecules: Structures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `small_molecules`."""
    path = tmp_path_factory.mktemp("molecules") / "molecules.extxyz"
    write_extxyz(path, small_molecules)
    return path


@pytest.fixture
def settings_of(source: Path, tmp_path: Path) -> Callable[..., dict]:
    """A configuration that learns to make `small_molecules`: `settings_of({"bond_channels": 0}, epochs=1)`."""

    def make(generation: dict | None = None, *, epochs: int = 3, folder: str = "runs", **run: object) -> dict:
        return {
            "name": "maker",
            "task": "generation",
            "data": {"source": str(source), "split": "random", "num_train": 36, "num_valid": 12},
            "model": MODEL,
            "generation": {"bond_channels": 2, **(generation or {})},
            "optimiser": {"learning_rate": 3e-3, "ema": 0.9},
            "schedule": {"epochs": epochs, "warmup_steps": 3},
            "run": {
                "folder": str(tmp_path / folder),
                "threads": 1,
                "batch_size": 6,
                "tensorboard": False,
                "rotate": False,
                **run,
            },
        }

    return make


def label_config(folder: Path, kind: str = "solids", model: dict | None = None, **changes: object) -> dict:
    file = write_clouds(folder / f"{kind}.npz", toy(kind))
    raw: dict = {
        "name": "shapes",
        "task": "labels",
        "data": {"source": str(file), "num_valid": 20},
        "model": INVARIANT if model is None else model,
        "labels": {"edges": "radius-2.5", "num_points": 32, "features": 16, "rotation": "z"},
        "optimiser": {"learning_rate": 1e-2, "ema": 0.9},
        "schedule": {"epochs": 8, "warmup_steps": 5},
        "run": {"folder": str(folder / "runs"), "batch_size": 12, "rotate": False, "tensorboard": False},
    }
    raw["run"]["threads"] = 1
    for key, value in changes.items():
        section, _, name = key.partition("__")
        raw[section] = {**raw[section], name: value} if name else value
    return raw


@pytest.fixture
def config(tmp_path: Path) -> MakeConfig:
    """A configuration that learns the labels of toy clouds: `config("rods", labels__level="point")`."""
    return partial(label_config, tmp_path)


@pytest.fixture(scope="module")
def module_config(tmp_path_factory: pytest.TempPathFactory) -> MakeConfig:
    """`config` for runs that several tests share."""
    return partial(label_config, tmp_path_factory.mktemp("labels"))
