"""Small sets and configurations to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from geomol.data import nbody

MODELS = {
    "nbody-linear": 'model = { name = "linear_motion" }\noptimiser = { learning_rate = 0.05 }',
    "nbody-gnn": """model = { name = "mpnn", coordinates = "absolute", channels = 4, num_layers = 1, cutoff = inf,
        envelope = false, num_radial = 0, in_scalars = 1, in_vectors = 1, out_scalars = 0, out_vectors = 1,
        edge_inputs = ["charge_product", "squared_distance"] }""".replace("\n       ", ""),
}


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration for a few bodies; `bodies("nbody-linear")` gives its path."""
    monkeypatch.setattr(nbody, "PARTS", {"train": (0, 20), "valid": (20, 10), "test": (30, 10)})
    monkeypatch.setitem(nbody.VARIANTS, "nbody/charged5", nbody.NBodyVariant(start=1, end=4, frequency=50))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOMOL_DATA", raising=False)

    def write(name: str, *, like: str | None = None, source: str = "nbody/charged5", extra: str = "") -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'name = "{name}"\ntask = "forecast"\ndata = {{ source = "{source}" }}\n{MODELS[like or name]}\n'
            "schedule = { epochs = 2, warmup_steps = 1 }\n"
            f'run = {{ folder = "{tmp_path}/runs", threads = 1, batch_size = 10, tensorboard = false, rotate = false'
            f"{extra} }}\n"
        )
        return path

    return write


@pytest.fixture
def molecules(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration for springs between three atoms."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        pos = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.1, 0]]) + rng.normal(scale=0.05, size=(3, 3))
        atoms = Atoms("H3", pos)
        apart = pos[:, None] - pos[None]
        length = np.linalg.norm(apart, axis=2) + np.eye(3)
        stretch = (length - 1.1) * (1 - np.eye(3))
        forces = -2 * (stretch / length)[..., None] * apart
        atoms.calc = SinglePointCalculator(atoms, energy=float((stretch**2).sum() / 2), forces=forces.sum(1))
        frames.append(atoms)
    ase.io.write(tmp_path / "springs.extxyz", frames)

    def write(name: str, model: str, *, num_train: int = 6) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'name = "{name}"\n'
            f'data = {{ source = "{tmp_path}/springs.extxyz", split = "random", num_train = {num_train},'
            f" num_valid = {9 - num_train} }}\n"
            f"model = {{ {model}, channels = 4, num_layers = 1, cutoff = 3.0 }}\n"
            "schedule = { epochs = 1, warmup_steps = 1 }\n"
            f'run = {{ folder = "{tmp_path}/runs", threads = 1, batch_size = 3, tensorboard = false }}\n'
        )
        return path

    return write
