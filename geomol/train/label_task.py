"""Learning labels: the class of a point cloud, or the part of each of its points."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.data import CloudBatch
from geomol.errors import ConfigError
from geomol.labels import LabelModel
from geomol.models import Calibrated
from geomol.symmetry import BACKBONES, build_backbone, with_elements
from geomol.train.config import TrainConfig
from geomol.train.label_data import CloudPart, label_parts
from geomol.train.label_use import label_figures
from geomol.train.sections import LabelConfig
from geomol.train.tasks import Prepared, own_randomness

CALIBRATION_CLOUDS = 16
POINT_ELEMENT = 0  # what a graph of points has for atomic numbers


class LabelTask:
    """Cross entropy; the model with the highest accuracy, or for parts the highest mIoU over clouds, is kept."""

    def __init__(self, config: LabelConfig) -> None:
        self.config = config
        self.judged_by = "accuracy" if config.level == "cloud" else "instance_miou"

    @property
    def columns(self) -> tuple[str, ...]:
        names = ["accuracy", "class_accuracy", "cross_entropy"]
        names += ["instance_miou", "class_miou"] if self.config.level == "point" else []
        return tuple(f"valid_{name}" for name in names)

    def loss(self, model: nn.Module, clouds: CloudBatch, labels: Int[Tensor, " R"]) -> Float[Tensor, ""]:
        """−Σ_k q_k log p_k, q = 1 − ε at the label and ε spread evenly over all kinds (of points, over those that the
        cloud may have), mean over clouds or points.
        """
        assert isinstance(model, LabelModel)
        logits, share = model(clouds), self.config.smoothing
        log_p = torch.log_softmax(logits, dim=1)
        known = logits.isfinite() if model.allowed is not None else torch.ones_like(logits, dtype=torch.bool)
        right = log_p.gather(1, labels[:, None])[:, 0]
        evenly = torch.where(known, log_p, 0.0).sum(1) / known.sum(1)
        return -((1 - share) * right + share * evenly).mean()

    def errors(self, model: nn.Module, part: CloudPart) -> dict[str, float]:
        assert isinstance(model, LabelModel)
        figures = label_figures(model, part.fixed).figures
        return {f"valid_{key}": value for key, value in figures.items() if f"valid_{key}" in self.columns}

    def score(self, errors: dict[str, float]) -> float:
        return 1 - errors[f"valid_{self.judged_by}"]


def prepare_labels(config: TrainConfig) -> Prepared:
    """Loads clouds and builds an untrained model.

    Raises:
        ConfigError: clouds without what is to be read or learned, see `label_parts`.
    """
    settings, run = config.labels, config.run
    parts, data_hash = label_parts(config)
    first = parts["train"]
    if settings.normals != "none" and first.normals is None:
        raise ConfigError(f'labels.normals = "{settings.normals}": these clouds have none', where=config.data.source)
    with own_randomness(run.seed):
        backbone = build_backbone(with_elements(with_interface(config.model, settings), [POINT_ELEMENT]))
        model = LabelModel(
            backbone,
            class_names=first.class_names,
            part_names=first.part_names if settings.level == "point" else (),
            class_parts=first.class_parts if settings.level == "point" else (),
            level=settings.level,
            pooling=settings.pooling,
            edges=settings.edges,
            normals=settings.normals,
            frame=settings.frame,
            features=settings.features,
            num_points=settings.num_points,
            reach=float(np.median(first.reaches)),
        )
    model = model.to(run.device, getattr(torch, run.dtype))
    train, valid = (CloudPart(parts[name], settings, run.device) for name in ("train", "valid"))
    if isinstance(backbone, Calibrated) and run.calibrate:
        backbone.eval()
        with own_randomness(run.seed):
            clouds, _ = train.batch(torch.arange(min(CALIBRATION_CLOUDS, len(train))))
        backbone.calibrate(model.graph(clouds))
    return Prepared(model, LabelTask(settings), train, valid, dict(parts), data_hash)


def with_interface(model: Mapping[str, Any], settings: LabelConfig) -> dict[str, Any]:
    """The settings of a backbone, or of the one inside a symmetriser, with inputs and outputs as the labels need them;
    what is stated stays.
    """
    if isinstance(inner := model.get("backbone"), Mapping):
        return {**model, "backbone": with_interface(inner, settings)}
    readers = inspect.signature(BACKBONES[str(model["name"])].__init__).parameters
    wanted: dict[str, Any] = {
        "in_scalars": 3 * (settings.normals == "scalars"),
        "in_vectors": (settings.normals == "vectors") + 3 * settings.frame,
        "out_scalars": settings.features,
        "out_vectors": 0,
    }
    if settings.frame:
        wanted["frame"] = "given"
    lacking = [key for key in ("in_scalars", "in_vectors") if wanted[key] and key not in readers]
    if lacking:
        raise ConfigError(
            f'model "{model["name"]}" does not read what labels.normals or labels.frame give',
            expected=", ".join(lacking),
        )
    return {**{key: value for key, value in wanted.items() if key in readers}, **model}
