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

from geomol.data import Structures, load_qm9
from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph import CompleteStore, Graph, GraphStore
from geomol.models import Calibrated
from geomol.properties import PropertyModel, Target
from geomol.symmetry import BACKBONES, build_backbone, with_elements
from geomol.train.config import PropertyConfig, TrainConfig
from geomol.train.order import by_size
from geomol.train.setup import split_rows
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
        self.names = [_column(target.name, target.unit) for target in model.targets]

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


def _column(name: str, unit: str) -> str:
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


@dataclass(frozen=True, eq=False)
class PropertyData:
    """Structures of a part with the values of their targets, and the set that they come from."""

    structures: Structures
    values: Float[np.ndarray, "S D"]
    whole: Structures


def property_parts(config: TrainConfig) -> tuple[dict[str, PropertyData], list[str]]:
    """The parts of a run, and the units of its targets."""
    whole, values, units, holdout = load_targets(config)
    rows = holdout_rows(config, holdout) if config.data.split == "holdout" else split_rows(whole, config.data)
    return {name: PropertyData(whole.subset(r), values[r], whole) for name, r in rows.items()}, units


def load_targets(config: TrainConfig) -> tuple[Structures, np.ndarray, list[str], np.ndarray]:
    """Structures for which all targets are known, their values, the units, and which rows are held out officially.

    Raises:
        ConfigError: an unknown target, or a source without a table.
    """
    if config.data.source != "qm9":
        raise ConfigError(
            "properties are learned from data with a table of them", expected="qm9", got=config.data.source
        )
    structures, table = load_qm9()
    names = list(config.properties.targets)
    if config.properties.vector:
        values, units = table.vector(names[0])
        known = np.isfinite(values).all(axis=1)
    else:
        values = np.stack([table.column(name) for name in names], axis=1)
        units = [table.units[table.names.index(name)] for name in names]
        known = np.isfinite(values).all(axis=1)
    return structures.subset(np.flatnonzero(known)), values[known], units, table.holdout[known]


def holdout_rows(config: TrainConfig, holdout: np.ndarray) -> dict[str, np.ndarray]:
    """The official hold-out of G4MP2 as the test part, and random train and valid parts of the rest."""
    rest = np.flatnonzero(~holdout)
    num_valid = config.data.num_valid
    if num_valid is None:
        raise ConfigError('data.split = "holdout" needs data.num_valid')
    num_train = config.data.num_train or len(rest) - num_valid
    order = rest[np.random.default_rng(config.data.seed).permutation(len(rest))]
    if num_train + num_valid > len(rest):
        raise ConfigError("more structures asked for than there are", expected=f"up to {len(rest)}")
    return {
        "train": np.sort(order[num_valid : num_valid + num_train]),
        "valid": np.sort(order[:num_valid]),
        "test": np.flatnonzero(holdout),
    }


def fit_targets(
    settings: PropertyConfig,
    units: list[str],
    structures: Structures,
    values: Float[np.ndarray, "S D"],
    elements: list[int],
) -> list[Target]:
    """Mean and spread of each target on the training part, and element references by least squares where asked for.

    The spread is the mean absolute deviation, of a vector the root mean square of its components, which does not
    depend on the frame.
    """
    if settings.vector:
        return [Target(settings.targets[0], units[0], spread=float(np.sqrt(np.mean(values**2))))]
    owner = np.repeat(np.arange(len(structures)), structures.n_atoms)
    counts = np.zeros((len(structures), len(elements)))
    np.add.at(counts, (owner, np.searchsorted(elements, structures.numbers)), 1)
    targets = []
    for k, name in enumerate(settings.targets):
        column, references = values[:, k], None
        if settings.references:
            fitted = np.linalg.lstsq(counts, column, rcond=None)[0]
            references = {z: float(e) for z, e in zip(elements, fitted, strict=True)}
            column = column - counts @ fitted
        mean = float(column.mean())
        spread = float(np.abs(column - mean).mean()) or 1.0
        targets.append(Target(name, units[k], mean, spread, references))
    return targets


def _with_outputs(model: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """The settings of a backbone, or of the one inside a symmetriser, with outputs for the targets."""
    if isinstance(inner := model.get("backbone"), Mapping):
        return {**model, "backbone": _with_outputs(inner, wanted)}
    readers = inspect.signature(BACKBONES[str(model["name"])].__init__).parameters
    return {**{key: value for key, value in wanted.items() if key in readers}, **model}


def evaluate_properties(
    model: PropertyModel, structures: Structures, values: Float[np.ndarray, "S D"]
) -> tuple[dict[str, float], np.ndarray]:
    """Errors per target with units in the names, and the predictions; NaN values are not counted."""
    device = str(next(model.parameters()).device)
    part = PropertyPart.from_structures(structures, values, model.cutoff, vector=model.vector, device=device)
    predicted = predict_properties(model, part).numpy()
    figures = {"num_structures": float(len(structures))}
    errors = np.abs(predicted - values) / model.spreads().numpy()
    figures["mae_of_spread"] = float(np.nanmean(errors))
    for k, target in enumerate(model.targets):
        error = predicted - values if model.vector else predicted[:, k] - values[:, k]
        known = error[np.isfinite(error)]
        name = _column(target.name, target.unit).removeprefix("valid_")
        figures[name] = float(np.abs(known).mean())
        figures[name.replace("_mae_", "_rmse_")] = float(np.sqrt(np.mean(known**2)))
        if model.vector:
            figures[name.replace("_mae_", "_length_error_")] = float(np.linalg.norm(error, axis=1).mean())
    return figures, predicted


@torch.no_grad()
def property_rotation_error(model: PropertyModel, structures: Structures, *, seed: int = 0, num: int = 200) -> float:
    """Largest change of a prediction (of a vector, of its length of difference after turning back) over random
    rotations of some structures, in units of the target's spread.
    """
    rows = np.unique(np.linspace(0, len(structures) - 1, min(num, len(structures))).round().astype(int))
    chosen = structures.subset(rows)
    values = np.zeros((len(chosen), 3 if model.vector else len(model.targets)))
    device = str(next(model.parameters()).device)
    part = PropertyPart.from_structures(chosen, values, model.cutoff, vector=model.vector, device=device)
    turn = random_rotations(len(chosen), generator=torch.Generator().manual_seed(seed))
    index = torch.arange(len(chosen))
    here, there = model(part.batch(index)[0]), model(part.batch(index, turn)[0])
    if model.vector:
        here = torch.bmm(here[:, None], turn.to(here).mT)[:, 0]
        return float(((there - here).norm(dim=1) / model.spreads(here.device)).max())
    return float(((there - here).abs() / model.spreads(here.device)).max())
