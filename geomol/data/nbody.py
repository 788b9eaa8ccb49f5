"""The charged five-body benchmark: a simulator, and the data set that papers on equivariance compare on."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from geomol.data.folders import cache_folder, data_folders
from geomol.errors import ConfigError, DataError

TIME_STEP = 1e-3
MAX_FORCE = 0.1 / TIME_STEP
BOX = 5.0
LENGTH = 5000  # steps of a published trajectory
SPEED = 0.5
PARTS = {"train": (0, 3000), "valid": (10_000, 2000), "test": (12_000, 2000)}
"""First system and number of systems of each part, in the order in which the authors' generator draws them: of 10 000
systems for training it uses 3000, then come validation and test."""


@dataclass(frozen=True)
class NBodyVariant:
    """Which moments of the trajectories are input and target; one frame is `frequency` steps of 0.001."""

    frequency: int = 100
    start: int = 30
    end: int = 40
    seed: int = 43


VARIANTS = {"nbody/charged5": NBodyVariant(), "nbody/charged5-later": NBodyVariant(start=20, end=30)}


@dataclass(frozen=True, eq=False)
class NBody:
    """States of S systems of n charged particles, and where the particles are 1 unit of time (1000 steps) later.

    No units: unit charges and masses, interaction strength 1.
    """

    name: str
    pos: np.ndarray  # (S, n, 3)
    velocity: np.ndarray  # (S, n, 3)
    charge: np.ndarray  # (S, n), ±1
    target: np.ndarray  # (S, n, 3), later positions
    splits: dict[str, np.ndarray]  # row numbers by name

    def __len__(self) -> int:
        return len(self.pos)

    def content_hash(self) -> str:
        """SHA-256 over all arrays."""
        digest = hashlib.sha256()
        for array in (self.pos, self.velocity, self.charge, self.target, *self.splits.values()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def split(self, name: str) -> NBody:
        """The systems of one part ("train", "valid" or "test").

        Raises:
            ConfigError: no such part.
        """
        if name not in self.splits:
            raise ConfigError(f'{self.name} has no part "{name}"', expected=" or ".join(self.splits))
        return self.rows(self.splits[name])

    def rows(self, rows: np.ndarray | slice) -> NBody:
        """Some of the systems."""
        return NBody(self.name, self.pos[rows], self.velocity[rows], self.charge[rows], self.target[rows], {})


def draw_initial_states(
    num: int, *, seed: int, particles: int = 5, frequency: int = 100
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Charges ±1, normal positions and velocities of norm 0.5, in the order in which the authors draw them.

    Source: the generator of Satorras et al. 2021 (after Kipf et al. 2018). After each system it draws observation noise
    for the whole trajectory and multiplies it by zero; the numbers are drawn here too, so that the second system and
    all others are the published ones. Particles outside the box of half-width 5 are reflected into it once; there are
    no walls afterwards.

    Returns:
        Charges (num, n), positions and velocities (num, n, 3).
    """
    random = np.random.RandomState(seed)  # the legacy generator, which the published data come from
    charge, pos, velocity = (np.empty((num, particles, *tail)) for tail in ((), (3,), (3,)))
    for k in range(num):
        charge[k] = random.choice([-1.0, 0.0, 1.0], size=(particles, 1), p=[0.5, 0.0, 0.5])[:, 0]
        pos[k] = random.randn(3, particles).T * (particles / 5) ** (1 / 3)
        drawn = random.randn(3, particles).T
        velocity[k] = drawn * SPEED / np.linalg.norm(drawn, axis=1, keepdims=True)
        random.randn(2 * (LENGTH // frequency - 1) * 3 * particles)
    over, under = pos > BOX, pos < -BOX
    pos = np.where(over, 2 * BOX - pos, np.where(under, -2 * BOX - pos, pos))
    velocity = np.where(over, -np.abs(velocity), np.where(under, np.abs(velocity), velocity))
    return charge, pos, velocity


def simulate(
    charge: Float[np.ndarray, "S n"],
    pos: Float[np.ndarray, "S n 3"],
    velocity: Float[np.ndarray, "S n 3"],
    *,
    frames: int,
    frequency: int = 100,
) -> tuple[Float[np.ndarray, "F S n 3"], Float[np.ndarray, "F S n 3"]]:
    """Trajectories under Coulomb forces q_i q_j (x_i − x_j)/|x_i − x_j|³, each component clipped to ±100.

    One kick of a full time step, then drift and kick in turn. Frame k is taken after (k + 1) · frequency drifts, with
    the velocity before the kick that follows. Many systems run at once; none sees another.
    """
    pos = np.moveaxis(pos, (0, 1, 2), (2, 1, 0)).copy()  # (3, n, S): long rows for speed
    velocity = np.moveaxis(velocity, (0, 1, 2), (2, 1, 0)).copy()
    strength = charge.T[:, None] * charge.T[None]  # (n, n, S)
    velocity += TIME_STEP * _forces(pos, strength)
    kept_pos, kept_velocity = [], []
    for step in range(1, frames * frequency + 1):
        pos += TIME_STEP * velocity
        if step % frequency == 0:
            kept_pos.append(np.moveaxis(pos, (0, 1, 2), (2, 1, 0)).copy())
            kept_velocity.append(np.moveaxis(velocity, (0, 1, 2), (2, 1, 0)).copy())
        velocity += TIME_STEP * _forces(pos, strength)
    return np.stack(kept_pos), np.stack(kept_velocity)


def _forces(pos: np.ndarray, strength: np.ndarray) -> np.ndarray:
    total = np.zeros_like(pos)
    for i in range(pos.shape[1]):
        for j in range(i):
            difference = pos[:, i] - pos[:, j]
            squared = np.einsum("ds,ds->s", difference, difference)
            pull = strength[i, j] / (squared * np.sqrt(squared)) * difference
            total[:, i] += pull
            total[:, j] -= pull
    clipped: np.ndarray = np.clip(total, -MAX_FORCE, MAX_FORCE)
    return clipped


def make_nbody(name: str) -> NBody:
    """Simulates a variant of the benchmark, about half a minute; the same bits each time on one machine.

    Raises:
        ConfigError: unknown variant.
    """
    variant = find_variant(name)
    total = max(first + num for first, num in PARTS.values())
    charge, pos, velocity = draw_initial_states(total, seed=variant.seed, frequency=variant.frequency)
    rows = np.concatenate([np.arange(first, first + num) for first, num in PARTS.values()])
    charge, pos, velocity = charge[rows], pos[rows], velocity[rows]
    frames, velocities = simulate(charge, pos, velocity, frames=variant.end + 1, frequency=variant.frequency)
    bounds = np.cumsum([0, *(num for _, num in PARTS.values())])
    splits = {part: np.arange(a, b) for part, a, b in zip(PARTS, bounds[:-1], bounds[1:], strict=True)}
    return NBody(name, frames[variant.start], velocities[variant.start], charge, frames[variant.end], splits)


def find_variant(name: str) -> NBodyVariant:
    """The variant of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in VARIANTS:
        raise ConfigError(f'no n-body data set "{name}"', expected=" or ".join(VARIANTS))
    return VARIANTS[name]


def load_nbody(name: str = "nbody/charged5") -> NBody:
    """The benchmark from the data folders, or simulated now and kept in the user's cache.

    Raises:
        ConfigError: unknown variant.
        DataError: a file of that name with other contents.
    """
    find_variant(name)
    for _, folder in data_folders():
        if (path := folder / f"{name}.npz").is_file():
            return _read(path, name)
    data = make_nbody(name)
    path = cache_folder() / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    arrays = {"pos": data.pos, "velocity": data.velocity, "charge": data.charge, "target": data.target}
    np.savez(temporary, **arrays, **{f"split_{part}": rows for part, rows in data.splits.items()})  # type: ignore[arg-type]
    temporary.replace(path)
    return data


def _read(path: Path, name: str) -> NBody:
    fields = ("pos", "velocity", "charge", "target")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {field: file[field] for field in fields}
            splits = {part: file[f"split_{part}"] for part in PARTS}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "not an n-body data set", where=str(path), got=str(error), remedy="delete it; it is made anew"
        ) from error
    return NBody(name=name, splits=splits, **arrays)
