"""Learning where particles go: the n-body benchmark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.data import NBody, load_nbody
from geomol.errors import ConfigError
from geomol.forecast import Forecaster
from geomol.geometry import random_rotations
from geomol.graph import Graph, GraphStore
from geomol.models import Calibrated
from geomol.nn import device_of
from geomol.symmetry import build_backbone
from geomol.train.config import TrainConfig
from geomol.train.tasks import Prepared, own_randomness, seeded

CALIBRATION_SYSTEMS = 50
EVALUATION_BATCH = 500


@dataclass(frozen=True, eq=False)
class NBodyPart:
    """Systems as flat arrays: present state in complete graphs, and later positions."""

    store: GraphStore
    velocity: Float[Tensor, "A 3"]
    charge: Float[Tensor, " A"]
    target: Float[Tensor, "A 3"]

    @classmethod
    def from_nbody(cls, data: NBody, *, device: str, dtype: torch.dtype) -> NBodyPart:
        num, size = data.charge.shape
        pos, zeros = data.pos.reshape(-1, 3), np.zeros((num, 3, 3))
        ptr = np.arange(0, num * size + 1, size)
        store = GraphStore.from_arrays(
            pos, np.zeros(num * size, dtype=np.int64), ptr, zeros, np.zeros((num, 3), dtype=bool), dtype=dtype
        ).to(device)
        velocity, charge, target = (
            torch.from_numpy(array).to(device, dtype)
            for array in (data.velocity.reshape(-1, 3), data.charge.reshape(-1), data.target.reshape(-1, 3))
        )
        return cls(store, velocity, charge, target)

    def __len__(self) -> int:
        return len(self.store)

    def batch(
        self, index: Int[Tensor, " B"], rotation: Float[Tensor, "B 3 3"] | None = None
    ) -> tuple[Graph, Float[Tensor, "N 3"]]:
        """Present states and later positions, turned together where rotations are given."""
        index = index.to(self.charge.device)
        graph, rows = self.store.batch(index, rotation=rotation), self.store.node_index(index)
        velocity, target = self.velocity[rows], self.target[rows]
        if rotation is not None:
            turn = rotation.to(velocity).mT[graph.batch]
            velocity, target = torch.bmm(velocity[:, None], turn)[:, 0], torch.bmm(target[:, None], turn)[:, 0]
        return graph.replace(node_scalars=self.charge[rows][:, None], node_vectors=velocity[:, None]), target


class ForecastTask:
    """Mean square error of the coordinates, as the papers on this benchmark report it."""

    columns: ClassVar[tuple[str, ...]] = ("valid_position_mse",)

    def loss(self, model: nn.Module, graph: Graph, labels: Tensor) -> Float[Tensor, ""]:
        later: Tensor = model(graph)
        return (later - labels).square().mean()

    def errors(self, model: nn.Module, part: NBodyPart) -> dict[str, float]:
        return {"valid_position_mse": position_mse(model, part)}

    def score(self, errors: dict[str, float]) -> float:
        return errors["valid_position_mse"]


def prepare_forecast(config: TrainConfig) -> Prepared:
    """Loads the benchmark and builds an untrained forecaster with seeded weights.

    Raises:
        ConfigError: a source that holds no trajectories, or more systems asked for than there are.
    """
    whole = load_nbody(config.data.source)
    parts = {name: whole.split(name) for name in whole.splits}
    if (wanted := config.data.num_train) is not None:
        if wanted > len(parts["train"]):
            raise ConfigError(
                "data.num_train exceeds the data", expected=f"up to {len(parts['train'])}", got=str(wanted)
            )
        parts["train"] = parts["train"].rows(slice(wanted))
    with own_randomness(config.run.seed):
        model = Forecaster(build_backbone(config.model))
    dtype = getattr(torch, config.run.dtype)
    model = model.to(config.run.device, dtype)
    train, valid = (
        NBodyPart.from_nbody(parts[name], device=config.run.device, dtype=dtype) for name in ("train", "valid")
    )
    if config.run.calibrate and isinstance(model.backbone, Calibrated):
        model.eval()  # without dropout: the weights follow from seed and data alone
        model.backbone.calibrate(train.batch(torch.arange(min(CALIBRATION_SYSTEMS, len(train))))[0])
    return Prepared(model, ForecastTask(), train, valid, parts, whole.content_hash())


@torch.no_grad()
def position_mse(model: nn.Module, part: NBodyPart, *, rotation_seed: int | None = None) -> float:
    """Mean over all coordinates; with a seed, of states turned at random, which tells how well a model turns along."""
    total, count = 0.0, 0
    for start in range(0, len(part), EVALUATION_BATCH):
        index = torch.arange(start, min(start + EVALUATION_BATCH, len(part)))
        turn = None
        if rotation_seed is not None:
            turn = random_rotations(len(index), generator=seeded(rotation_seed, start))
        graph, target = part.batch(index, turn)
        error = (model(graph) - target).double()
        total, count = total + float(error.square().sum()), count + error.numel()
    return total / count


@torch.no_grad()
def equivariance_error(model: nn.Module, part: NBodyPart, *, seed: int = 0) -> float:
    """Mean ‖f(gx) − g f(x)‖ / mean ‖Δ(x)‖ over systems and random rotations, Δ the displacement that is forecast.

    0 where nothing moves in any orientation.
    """
    difference, size = 0.0, 0.0
    for start in range(0, len(part), EVALUATION_BATCH):
        index = torch.arange(start, min(start + EVALUATION_BATCH, len(part)))
        turn = random_rotations(len(index), generator=seeded(seed, start))
        graph, _ = part.batch(index)
        turned, _ = part.batch(index, turn)
        here = model(graph)
        expected = torch.bmm(here[:, None], turn.to(here).mT[graph.batch])[:, 0]
        difference += float((model(turned) - expected).norm(dim=1).sum())
        size += float((here - graph.pos).norm(dim=1).sum())
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / size


def evaluate_forecast(model: Forecaster, data: NBody, split: str | None = None) -> dict[str, float]:
    """Errors on a part of the benchmark (all of it by default), as it is and turned at random.

    `equivariance_error` is relative to the displacement that is forecast; the others are mean squares of coordinates.
    """
    data = data if split is None else data.split(split)
    device = device_of(model)
    part = NBodyPart.from_nbody(data, device=str(device), dtype=model.dtype)
    return {
        "num_systems": float(len(data)),
        "position_mse": position_mse(model, part),
        "position_mse_turned": position_mse(model, part, rotation_seed=0),
        "equivariance_error": equivariance_error(model, part),
    }
