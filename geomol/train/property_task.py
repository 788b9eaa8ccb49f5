"""Learning properties of whole structures: numbers, and vectors that turn with the structure."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.data import Structures
from geomol.graph import CompleteStore, Graph, GraphStore
from geomol.models import Calibrated
from geomol.properties import PropertyModel
from geomol.symmetry import BACKBONES, build_backbone, with_elements
from geomol.train.config import TrainConfig
from geomol.train.order import by_size
from geomol.train.property_data import fit_targets, property_parts
from geomol.train.sections import PropertyConfig
from geomol.train.tasks import Prepared, own_randomness

CALIBRATION_STRUCTURES = 50
EVALUATION_BATCH = 200


@dataclass(frozen=True, eq=False)
class PropertyPart:
    """Structures with their targets, as flat arrays on the device."""

    store: GraphStore | CompleteStore
    values: Float[Tensor, "S D"]
    sizes: Int[Tensor, " S"]
    vector: bool

    @classmethod
    def from_structures(
        cls, structures: Structures, values: np.ndarray, cutoff: float, *, vector: bool, device: str
    ) -> PropertyPart:
        s = structures
        store: GraphStore | CompleteStore
        if math.isinf(cutoff) and not s.pbc.any():
            store = CompleteStore.from_arrays(s.pos, s.numbers, s.ptr, device=device)
        else:
            store = GraphStore.from_arrays(s.pos, s.numbers, s.ptr, s.cell, s.pbc, cutoff, device=device)
        return cls(store, torch.from_numpy(values).to(device), torch.from_numpy(s.n_atoms), vector)

    def __len__(self) -> int:
        return len(self.values)

    def order(self, generator: torch.Generator, batch_size: int) -> Int[Tensor, " S"]:
        """A permutation in which the structures of a batch are of nearly one size."""
        return by_size(self.sizes, generator, batch_size)

    def batch(
        self, index: Int[Tensor, " B"], rotation: Float[Tensor, "B 3 3"] | None = None
    ) -> tuple[Graph, Float[Tensor, "B D"]]:
        """Graph and targets of some structures; vectors turn along."""
        index = index.to(self.values.device)
        values = self.values[index]
        if rotation is not None and self.vector:
            values = torch.bmm(values[:, None], rotation.to(values).mT)[:, 0]
        return self.store.batch(index, rotation=rotation), values


class PropertyTask:
    """Error of the standardised targets; the model with the lowest MAE, in units of the spreads, is kept."""

    def __init__(self, config: PropertyConfig, model: PropertyModel) -> None:
        self.config = config
        self.names = [column_of(target.name, target.unit) for target in model.targets]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.names, "valid_mae_of_spread")

    def loss(self, model: nn.Module, graph: Graph, labels: Tensor) -> Float[Tensor, ""]:
        assert isinstance(model, PropertyModel)
        found = model.standardised(graph)
        wanted = standardise(model, graph, labels).to(found.dtype)
        known = ~wanted.isnan()
        error = torch.where(known, found - torch.where(known, wanted, 0.0), 0.0)
        if self.config.loss == "huber":
            each = torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none")
        else:
            each = error.abs() if self.config.loss == "l1" else error.square()
        return each.sum() / known.sum().clamp(min=1)

    def errors(self, model: nn.Module, part: PropertyPart) -> dict[str, float]:
        assert isinstance(model, PropertyModel)
        mae = mean_absolute_errors(model, part)
        of_spread = float((mae / model.spreads()).mean())
        return {**dict(zip(self.names, mae.tolist(), strict=True)), "valid_mae_of_spread": of_spread}

    def score(self, errors: dict[str, float]) -> float:
        return errors["valid_mae_of_spread"]


def column_of(name: str, unit: str) -> str:
    """A heading such as valid_gap_mae_eV or valid_Cv_mae_cal_per_mol_K."""
    plain = unit.replace("/(", "_per_").replace("/", "_per_").replace(" ", "_")
    return f"valid_{name}_mae_{plain.translate(str.maketrans('', '', '^()'))}"


def standardise(model: PropertyModel, graph: Graph, labels: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Targets as the network thinks of them, NaN where not known."""
    spread = model.spreads(labels.device)
    return labels / spread if model.vector else (labels - model.offsets(graph)) / spread


@torch.no_grad()
def predict_properties(model: PropertyModel, part: PropertyPart) -> Float[Tensor, "S D"]:
    """All predictions, float64, in the order of the structures."""
    order = torch.argsort(part.sizes, stable=True)
    found = []
    for start in range(0, len(order), EVALUATION_BATCH):
        graph, _ = part.batch(order[start : start + EVALUATION_BATCH])
        found.append(model(graph).cpu())
    out = torch.empty(len(part), found[0].shape[1], dtype=torch.float64)
    out[order] = torch.cat(found)
    return out


def mean_absolute_errors(model: PropertyModel, part: PropertyPart) -> Float[Tensor, " T"]:
    """Over the structures whose value is known; of a vector, over its components."""
    error = (predict_properties(model, part) - part.values.cpu()).abs()
    if model.vector:
        return error.nanmean().reshape(1)
    return error.nanmean(dim=0)


def prepare_property(config: TrainConfig) -> Prepared:
    """Loads structures with known targets, standardises them, and builds an untrained model.

    Raises:
        ConfigError: an unknown target, or data without a table of properties.
    """
    settings = config.properties
    data, units = property_parts(config)
    parts = {name: part.structures for name, part in data.items()}
    whole = data["train"].whole
    elements = whole.elements()
    targets = fit_targets(settings, units, parts["train"], data["train"].values, elements)
    with own_randomness(config.run.seed):
        wanted: dict[str, object] = {"out_scalars": len(targets), "out_vectors": int(settings.vector)}
        backbone = build_backbone(with_elements(_with_outputs(config.model, wanted), elements))
    model = PropertyModel(
        backbone, elements=elements, targets=targets, pooling=settings.pooling, vector=settings.vector
    )
    model = model.to(config.run.device, getattr(torch, config.run.dtype))
    train, valid = (
        PropertyPart.from_structures(
            parts[name], data[name].values, model.cutoff, vector=settings.vector, device=config.run.device
        )
        for name in ("train", "valid")
    )
    if isinstance(backbone, Calibrated) and config.run.calibrate:
        backbone.eval()
        backbone.calibrate(train.batch(torch.arange(min(CALIBRATION_STRUCTURES, len(train))))[0])
    return Prepared(model, PropertyTask(settings, model), train, valid, parts, whole.content_hash())


def _with_outputs(model: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """The settings of a backbone, or of the one inside a symmetriser, with outputs for the targets."""
    if isinstance(inner := model.get("backbone"), Mapping):
        return {**model, "backbone": _with_outputs(inner, wanted)}
    readers = inspect.signature(BACKBONES[str(model["name"])].__init__).parameters
    return {**{key: value for key, value in wanted.items() if key in readers}, **model}
