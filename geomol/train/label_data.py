"""Point clouds whose labels are to be learned: parts, variations in training, and the fixed poses of tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.data import (
    CLOUD_POOL,
    CloudBatch,
    Clouds,
    drop_points,
    jitter,
    load_clouds,
    random_rotate,
    random_scale,
    random_split,
    rotate,
    uniform_jitter,
    voxel_width,
)
from geomol.errors import ConfigError
from geomol.train.config import TrainConfig
from geomol.train.sections import LabelConfig
from geomol.train.tasks import seeded

GROUPS = {"none": "none", "z": "z", "SO(3)": "so3"}  # of rotations, as configurations and the data name them
TEST_SEED = 20_240_501
EVALUATION_BATCH = 50


def load_labelled(source: str, *, num_points: int | None = None) -> Clouds:
    """Point clouds by name or file, with classes, see `geomol.data.load_clouds`.

    Args:
        source: as there.
        num_points: how many of each cloud are wanted at a time. They are drawn from at least `CLOUD_POOL`.

    Raises:
        ConfigError: clouds without classes, or more points than the set has.
    """
    clouds = load_clouds(source, num_points=max(num_points or 0, CLOUD_POOL))
    if clouds.label is None:
        raise ConfigError("clouds without classes", where=source, remedy="give an .npz with `label` and `class_names`")
    return clouds


def label_parts(config: TrainConfig) -> tuple[dict[str, Clouds], str]:
    """Train, valid and test clouds, and the hash of the whole set.

    The valid part is the stored one, or `data.num_valid` clouds held out of the stored training part by `data.seed`.

    Raises:
        ConfigError: no such parts, more clouds asked for than there are, or parts to be learned that are not known.
    """
    data = config.data
    whole = load_labelled(data.source, num_points=config.labels.num_points)
    if config.labels.level == "point" and whole.part is None:
        raise ConfigError('labels.level = "point" needs clouds with parts', where=data.source)
    stored = whole.splits
    if "train" not in stored or ("valid" not in stored and data.num_valid is None):
        raise ConfigError(
            f"{data.source} has no stored train and valid parts",
            got=", ".join(sorted(stored)) or "no splits",
            remedy="set data.num_valid to hold out some of the stored training part",
        )
    rows = {name: np.asarray(stored[name]) for name in ("train", "valid", "test") if name in stored}
    if data.num_valid is not None:
        held, rest = _draw(rows.get("valid", rows["train"]), data.num_valid, data.seed)
        rows["valid"], rows["train"] = held, rows["train"] if "valid" in rows else rest
    if data.num_train is not None:
        rows["train"], _ = _draw(rows["train"], data.num_train, data.seed + 1)
    return {
        name: replace(whole.subset(r), name=f"{whole.name}[{name}]") for name, r in rows.items()
    }, whole.content_hash()


def _draw(rows: np.ndarray, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some of the rows by chance, and the others, each ascending."""
    if num > len(rows):
        raise ConfigError("more clouds asked for than there are", expected=f"up to {len(rows)}", got=str(num))
    drawn = random_split(len(rows), {"chosen": num, "others": len(rows) - num}, seed=seed)
    return rows[np.sort(drawn["chosen"])], rows[np.sort(drawn["others"])]


def vary(clouds: CloudBatch, settings: LabelConfig, *, width: float = 0.0, generator: torch.Generator) -> CloudBatch:
    """What training does to a batch, see `LabelConfig`; `width` is that of `voxel_width`.

    Rotations are drawn last: the same generator gives the same shapes, whatever the group that they are turned by.
    """
    if width > 0:
        clouds = uniform_jitter(clouds, width, generator=generator)
    low, high = settings.scale
    if (low, high) != (1.0, 1.0):
        clouds = random_scale(clouds, low, high, generator=generator, anisotropic=settings.anisotropic)
    if settings.jitter > 0:
        clouds = jitter(clouds, settings.jitter, generator=generator)
    if settings.drop > 0:
        clouds = drop_points(clouds, settings.drop, generator=generator)
    return random_rotate(clouds, GROUPS[settings.rotation], generator=generator)


def posed(clouds: Clouds, group: str, *, num_points: int | None, seed: int = TEST_SEED) -> CloudBatch:
    """All clouds as tests see them: the same points and places within voxels whatever the group of rotations.

    Args:
        group: of random rotations: "none", "z" or "so3".
        num_points: of each cloud, by chance; None: all.
        seed: of points, places and rotations.
    """
    batch = clouds.batch(np.arange(len(clouds)), num_points=num_points, generator=seeded(seed, 1), dtype=torch.float64)
    if (width := voxel_width(clouds)) > 0:
        batch = uniform_jitter(batch, width, generator=seeded(seed, 2))
    return random_rotate(batch, group, generator=seeded(seed, 3))


def pieces(clouds: CloudBatch, size: int = EVALUATION_BATCH) -> Iterator[CloudBatch]:
    """The clouds in batches, in their order."""
    for first in range(0, len(clouds), size):
        last = min(first + size, len(clouds))
        points = slice(int(clouds.ptr[first]), int(clouds.ptr[last]))
        yield CloudBatch(
            pos=clouds.pos[points],
            ptr=clouds.ptr[first : last + 1] - clouds.ptr[first],
            normals=None if clouds.normals is None else clouds.normals[points],
            label=None if clouds.label is None else clouds.label[first:last],
            part=None if clouds.part is None else clouds.part[points],
            frame=clouds.frame[first:last],
        )


@dataclass(frozen=True, eq=False)
class CloudPart:
    """A part of the data that training draws batches from."""

    clouds: Clouds
    settings: LabelConfig
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.clouds)

    def order(self, generator: torch.Generator, batch_size: int) -> Int[Tensor, " S"]:
        """The clouds of an epoch in random order; with `balance`, drawn by the rarity of their classes."""
        if not self.settings.balance:
            return torch.randperm(len(self), generator=generator)
        label = torch.from_numpy(np.asarray(self.clouds.label, dtype=np.int64))
        weight = torch.bincount(label).double()[label] ** -self.settings.balance
        return torch.multinomial(weight, len(self), replacement=True, generator=generator)

    def batch(
        self, index: Int[Tensor, " B"], rotation: Float[Tensor, "B 3 3"] | None = None
    ) -> tuple[CloudBatch, Int[Tensor, " R"]]:
        """Some clouds, varied by the process-wide generator (which the trainer sets before each step), and the classes
        of clouds or parts of points.
        """
        generator = seeded(int(torch.randint(2**62, ())))
        clouds = self.clouds.batch(
            index.numpy(), num_points=self.settings.num_points, generator=generator, dtype=torch.float64
        )
        clouds = vary(clouds, self.settings, width=voxel_width(self.clouds), generator=generator)
        clouds = (clouds if rotation is None else rotate(clouds, rotation)).to(self.device)
        return clouds, truth(clouds, self.settings.level)

    @cached_property
    def fixed(self) -> CloudBatch:
        """All clouds in poses of the training's group, the same at every validation."""
        return posed(self.clouds, GROUPS[self.settings.rotation], num_points=self.settings.num_points)


def truth(clouds: CloudBatch, level: str) -> Int[Tensor, " R"]:
    """What is to be found: the class of each cloud, or the part of each point."""
    wanted = clouds.label if level == "cloud" else clouds.part
    if wanted is None:
        raise ConfigError("clouds without the labels that the model gives", expected=f'labels of level "{level}"')
    return wanted
