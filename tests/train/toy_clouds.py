"""Clouds of two kinds of shapes, whose points near the centre are a part, and models that learn them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from geomol.checkpoint import load_model
from geomol.data import Clouds
from geomol.labels import LabelModel

INVARIANT = {"name": "ponita", "orientations": "none", "channels": 16, "num_layers": 1, "cutoff": 2.5}
PLAIN = {"name": "deep_sets", "channels": 32, "num_layers": 2, "pool": "max"}
MakeConfig = Callable[..., dict]


def sphere(rng: np.random.Generator, num: int) -> np.ndarray:
    """With a smaller one inside."""
    points = rng.normal(size=(num, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True) * rng.choice([0.5, 1.0, 1.0], size=(num, 1))


def cube(rng: np.random.Generator, num: int) -> np.ndarray:
    points = rng.uniform(-0.55, 0.55, size=(num, 3))
    points[np.arange(num), rng.integers(3, size=num)] = rng.choice([-0.55, 0.55], size=num)
    return points


def rod(axis: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    def make(rng: np.random.Generator, num: int) -> np.ndarray:
        points = 0.1 * rng.normal(size=(num, 3))
        points[:, axis] = rng.uniform(-1, 1, size=num)
        return points

    return make


SHAPES = {"solids": (sphere, cube), "rods": (rod(2), rod(0))}


def toy(kind: str, *, num: int = 120, points: int = 48, seed: int = 0) -> Clouds:
    """Two kinds of shapes in turn; what is near the centre is one part, the rest another, numbered apart by class."""
    rng = np.random.default_rng(seed)
    pos = np.concatenate([SHAPES[kind][i % 2](rng, points) for i in range(num)])
    label = np.arange(num) % 2
    part = 2 * np.repeat(label, points) + (np.linalg.norm(pos, axis=1) > 0.7)
    return Clouds(
        name=kind,
        pos=pos,
        ptr=np.arange(num + 1) * points,
        normals=np.tile([0.0, 0.0, 1.0], (len(pos), 1)),
        label=label,
        part=part,
        class_names=("one", "other"),
        part_names=("near", "far", "inner", "outer"),
        class_parts=((0, 1), (2, 3)),
        splits={"train": np.arange(num * 2 // 3), "test": np.arange(num * 2 // 3, num)},
    )


def load(folder: Path) -> LabelModel:
    from_file = load_model(folder if folder.suffix else folder / "model.safetensors")
    assert isinstance(from_file, LabelModel)
    return from_file
