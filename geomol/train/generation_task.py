"""Learning to make molecules: denoising of QM9 or any set of finite structures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.data import PropertyTable, Structures, bond_thresholds, load_qm9, load_structures
from geomol.diffusion import (
    Clean,
    Cloud,
    Denoiser,
    LossTerms,
    LossWeights,
    Variational,
    build_levels,
    fit_backbone,
    gaussian_cloud,
    loss_terms,
    optimal_transport,
    pairs_of,
    variational_terms,
    zero_mean,
)
from geomol.errors import ConfigError
from geomol.graph import parse_edge_rule
from geomol.ops.segment import segment_index
from geomol.symmetry import build_backbone
from geomol.train.compiled import compile_checked
from geomol.train.config import TrainConfig
from geomol.train.order import by_size
from geomol.train.sections import GenerationConfig
from geomol.train.setup import split_rows
from geomol.train.tasks import Prepared, own_randomness

CALIBRATION_STRUCTURES = 64
VALIDATION_BATCH = 250
VALIDATION_SEED = 20_240_229
FEW_OF_A_SIZE = 3  # structures that the law of all counts for in that of a size
LOW_LEVEL = 0.1  # noise level below which the error is logged apart


@dataclass(frozen=True, eq=False)
class MoleculePart:
    """Structures as flat arrays on the device, batched by index; nothing is copied but what a batch needs."""

    pos: Float[Tensor, "A 3"]
    types: Int[Tensor, " A"]
    sizes: Int[Tensor, " S"]
    starts: Int[Tensor, " S"]
    context: Float[Tensor, "S C"] | None
    thresholds: Float[Tensor, "K K 3"] | None
    features: Float[Tensor, "K F"]
    length_unit: float

    @classmethod
    def from_structures(
        cls, data: Structures, context: np.ndarray | None, denoiser: Denoiser, *, device: str
    ) -> MoleculePart:
        """Arrays of all structures, centred, in units of the denoiser."""
        elements = list(denoiser.elements)
        ptr = torch.from_numpy(np.asarray(data.ptr, dtype=np.int64))
        pos = zero_mean(torch.from_numpy(np.asarray(data.pos, dtype=np.float64)), ptr) / denoiser.length_unit
        types = np.searchsorted(elements, data.numbers) if elements else np.zeros(len(data.numbers), dtype=np.int64)
        thresholds = None
        if denoiser.bonds is not None:
            thresholds = torch.from_numpy(bond_thresholds(elements) / denoiser.length_unit).to(device, denoiser.dtype)
        return cls(
            pos.to(device, denoiser.dtype),
            torch.from_numpy(types).to(device),
            ptr.diff().to(device),
            ptr[:-1].to(device),
            None if context is None else torch.from_numpy(context).to(device, denoiser.dtype),
            thresholds,
            denoiser.features.to(device),
            denoiser.length_unit,
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def order(self, generator: torch.Generator, batch_size: int) -> Int[Tensor, " S"]:
        """A permutation in which the structures of a batch are of nearly one size, so that little is padded."""
        return by_size(self.sizes, generator, batch_size)

    def batch(self, index: Int[Tensor, " B"], rotation: Float[Tensor, "B 3 3"] | None = None) -> tuple[Clean, None]:
        """Structures, turned where rotations are given, with the bonds that their distances imply."""
        index = index.to(self.sizes.device)
        sizes = self.sizes[index]
        ptr = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        total = int(ptr[-1])
        owner = segment_index(ptr, total)
        rows = torch.arange(total, device=ptr.device) + (self.starts[index] - ptr[:-1])[owner]
        pos, types = self.pos[rows], self.types[rows]
        if rotation is not None:
            pos = torch.bmm(pos[:, None], rotation.to(pos).mT[owner])[:, 0]
        feats = self.features[types]
        pairs = orders = None
        if self.thresholds is not None:
            pairs = pairs_of(ptr)
            length = (pos[pairs[0]] - pos[pairs[1]]).norm(dim=1)
            orders = (length[:, None] < self.thresholds[types[pairs[0]], types[pairs[1]]]).sum(1)
        context = None if self.context is None else self.context[index]
        return Clean(Cloud(pos, feats, ptr), types, pairs, orders, context), None


class GenerationTask:
    """Denoising error; the model with the lowest total on fixed noise of the validation part is kept."""

    columns: ClassVar[tuple[str, ...]] = (
        "valid_loss",
        "valid_positions",
        "valid_positions_low",
        "valid_types",
        "valid_bonds",
    )

    def __init__(self, config: GenerationConfig) -> None:
        self.config = config
        self.weights = LossWeights(**config.weights.model_dump())

    def loss(self, model: nn.Module, clean: Clean, labels: None) -> Float[Tensor, ""]:
        del labels
        terms, _ = self._terms(model, clean, training=True)
        return terms.total(self.weights)

    def _terms(self, model: nn.Module, clean: Clean, *, training: bool) -> tuple[LossTerms, Tensor]:
        """Terms with noise of the process-wide generator, which the trainer seeds for each step."""
        assert isinstance(model, Denoiser)
        x = clean.cloud
        if training and clean.context is not None:
            clean = replace(clean, context=forget_some(clean.context, self.config.drop_conditions))
        if isinstance(model.levels, Variational):
            step = torch.randint(model.levels.schedule.num_steps + 1, (x.num_graphs,)).to(x.pos.device)
            noise = gaussian_cloud(x.ptr, x.feats.shape[1], dtype=x.pos.dtype)
            level = model.levels.at(step.double() / model.levels.schedule.num_steps).to(x.pos.dtype)
            return variational_terms(model, clean, step, noise), level
        level = model.levels.draw(x.num_graphs).to(x.pos.device, x.pos.dtype)
        noise = gaussian_cloud(x.ptr, x.feats.shape[1], dtype=x.pos.dtype)
        if self.config.coupling == "optimal_transport":
            noise = optimal_transport(noise, x)
        again = bool(torch.rand(()) < self.config.self_conditioning_share) if training else True
        return loss_terms(model, clean, level, noise, self.weights, self_condition=again), level

    @torch.no_grad()
    def errors(self, model: nn.Module, part: MoleculePart) -> dict[str, float]:
        total, low, kinds, bonds, loss, num_low = 0.0, 0.0, 0.0, 0.0, 0.0, 0
        ascending = torch.argsort(part.sizes.cpu(), stable=True)
        with own_randomness(VALIDATION_SEED, part.pos.device):
            for start in range(0, len(part), VALIDATION_BATCH):
                clean, _ = part.batch(ascending[start : start + VALIDATION_BATCH])
                terms, level = self._terms(model, clean, training=False)
                total, kinds = total + float(terms.positions.sum()), kinds + float(terms.types.sum())
                bonds += float(terms.bonds.sum())
                low += float(terms.positions[level < LOW_LEVEL].sum())
                num_low += int((level < LOW_LEVEL).sum())
                loss += float(terms.total(self.weights)) * clean.cloud.num_graphs
        n = len(part)
        return {
            "valid_loss": loss / n,
            "valid_positions": total / n,
            "valid_positions_low": low / max(1, num_low),
            "valid_types": kinds / n,
            "valid_bonds": bonds / n,
        }

    def score(self, errors: dict[str, float]) -> float:
        return errors["valid_loss"]


def forget_some(context: Float[Tensor, "G C"], share: float) -> Float[Tensor, "G C"]:
    """Conditions of a share of the structures, drawn with the process-wide generator, made unknown (NaN)."""
    dropped = torch.rand(len(context)) < share
    return context.masked_fill(dropped.to(context.device)[:, None], torch.nan)


def prepare_generation(config: TrainConfig) -> Prepared:
    """Loads and divides the structures, and builds an untrained denoiser for their elements."""
    settings = config.generation
    if settings.frame:
        raise ConfigError("generation.frame: molecules have no pose, leave it out", where=config.data.source)
    whole, table = _load(config)
    if not settings.hydrogens:
        whole = whole.without_hydrogens()
    rows = split_rows(whole, config.data)
    parts = {name: whole.subset(index) for name, index in rows.items()}
    values = _context(settings, whole, table)
    elements = whole.elements()
    conditions = (
        {name: _mean_and_spread(values[rows["train"], k]) for k, name in enumerate(settings.conditions)}
        if values is not None
        else {}
    )
    with own_randomness(config.run.seed):
        model_config = fit_backbone(
            config.model,
            num_types=len(elements) + bool(settings.charge_scale),
            num_conditions=len(conditions),
            self_conditioning=settings.self_conditioning,
            bond_channels=settings.bond_channels,
            cutoff=parse_edge_rule(settings.edges).cutoff,
        )
        denoiser = Denoiser(
            build_backbone(model_config),
            elements=elements,
            levels=build_levels(settings.process),
            conditions=conditions,
            condition_sizes={}
            if values is None
            else {
                name: _by_size(values[rows["train"], k], parts["train"].n_atoms)
                for k, name in enumerate(settings.conditions)
            },
            sizes=dict(zip(*(x.tolist() for x in np.unique(parts["train"].n_atoms, return_counts=True)), strict=True)),
            **settings.denoiser_settings(),
        )
    denoiser = denoiser.to(config.run.device, getattr(torch, config.run.dtype))
    train, valid = (
        MoleculePart.from_structures(
            parts[name], None if values is None else values[rows[name]], denoiser, device=config.run.device
        )
        for name in ("train", "valid")
    )
    if config.run.calibrate:
        with own_randomness(config.run.seed):
            denoiser.eval().calibrate(train.batch(torch.arange(min(CALIBRATION_STRUCTURES, len(train))))[0].cloud)
    task = GenerationTask(settings)
    if config.run.compile:
        some = train.batch(torch.arange(min(config.run.batch_size, len(train))))[0]

        def loss() -> Tensor:
            with own_randomness(VALIDATION_SEED, config.run.device):
                return task.loss(denoiser.train(), some, None)

        compile_checked(denoiser.backbone, loss)
    return Prepared(denoiser, task, train, valid, parts, whole.content_hash())


def generation_parts(config: TrainConfig) -> dict[str, Structures]:
    """Structures of the parts of a run, as it sees them."""
    whole, _ = _load(config)
    whole = whole if config.generation.hydrogens else whole.without_hydrogens()
    return {name: whole.subset(index) for name, index in split_rows(whole, config.data).items()}


def _load(config: TrainConfig) -> tuple[Structures, PropertyTable | None]:
    if config.data.source == "qm9":
        return load_qm9()
    return load_structures(config.data.source), None


def _context(settings: GenerationConfig, whole: Structures, table: PropertyTable | None) -> np.ndarray | None:
    """Values of the conditions for all structures: counted from the structures, or from their table."""
    if not settings.conditions:
        return None
    columns = []
    for name in settings.conditions:
        if name in COUNTED:
            columns.append(COUNTED[name](whole))
        elif table is not None:
            columns.append(table.column(name))
        else:
            raise ConfigError(
                f'the data have no property "{name}"',
                where=whole.name,
                expected=f'{", ".join(COUNTED)}, or source = "qm9"',
            )
    return np.stack(columns, axis=1)


def _heavy_atoms(structures: Structures) -> np.ndarray:
    return np.add.reduceat((structures.numbers > 1).astype(np.float64), structures.ptr[:-1])


COUNTED = {"heavy_atoms": _heavy_atoms}  # conditions that follow from the structures themselves


def _mean_and_spread(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return float(known.mean()), float(np.abs(known - known.mean()).mean())


def _by_size(values: Float[np.ndarray, " S"], sizes: Int[np.ndarray, " S"]) -> dict[int, tuple[float, float]]:
    """Mean and standard deviation among structures of each size, drawn towards those of all where there are few."""
    known = np.isfinite(values)
    mean, std = values[known].mean(), values[known].std()
    table = {}
    for size in np.unique(sizes[known]):
        some = values[known & (sizes == size)]
        n, prior = len(some), FEW_OF_A_SIZE
        centre = (some.sum() + prior * mean) / (n + prior)
        square = (((some - centre) ** 2).sum() + prior * std**2) / (n + prior)
        table[int(size)] = (float(centre), float(np.sqrt(square)))
    return table
