"""The part of `geomol audit` that knows models: which structures each kind is audited on, and by which outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from geomol.checks.audit import audit_forecaster, audit_potential
from geomol.checks.audit_denoiser import audit_denoiser
from geomol.checks.audit_labels import audit_labels
from geomol.checks.audit_properties import audit_properties
from geomol.data import Clouds, PropertyTable, Structures, load_nbody, load_qm9, load_structures
from geomol.data.cloud_categories import check_points, draw_points, load_category, names_clouds
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError
from geomol.forecast import Forecaster
from geomol.generate.read import read_molecules
from geomol.labels import LabelModel
from geomol.potential import Potential
from geomol.properties import PropertyModel
from geomol.symmetry.audit import Audit, Effort
from geomol.train import load_labelled
from geomol.train.forecast_task import NBodyPart
from geomol.train.label_data import posed, truth
from geomol.train.label_use import check_names

OnProgress = Callable[[float, str], None]
CLOUD_SEED = 20_240_501  # of the points that are drawn of each cloud


@dataclass(frozen=True)
class Asked:
    """What a model is to be audited on, as the command line says it.

    Attributes:
        data: a file or the name of a data set.
        split: a part of it; None for all.
        num: structures, spread evenly.
        points: of each cloud; None for as many as the model was trained with.
        units, skip_bad: of files of structures.
    """

    data: str
    split: str | None
    num: int
    points: int | None = None
    units: str | None = None
    skip_bad: bool = False


def audit_model(model: nn.Module, asked: Asked, effort: Effort, on_progress: OnProgress) -> Audit:
    """The audit of any model that geomol stores.

    Raises:
        ConfigError: data of another kind than the model's, a part that they do not have, or settings of no use.
    """
    clouds = isinstance(model, LabelModel) or (isinstance(model, Denoiser) and not model.elements)
    if asked.points is not None and not clouds:
        raise ConfigError("--points is for models of point clouds", got=type(model).__name__)
    if isinstance(model, Forecaster):
        return _forecaster(model, asked, effort, on_progress)
    if clouds != names_clouds(asked.data) and not missing_file(asked.data):
        expected = ("structures", "point clouds, such as modelnet10")[clouds]
        raise ConfigError("data of another kind than the model's", where=asked.data, expected=expected)
    if isinstance(model, LabelModel):
        return _labels(model, asked, effort, on_progress)
    if isinstance(model, Denoiser):
        return (_cloud_denoiser if clouds else _denoiser)(model, asked, effort, on_progress)
    if isinstance(model, PropertyModel):
        return _properties(model, asked, effort, on_progress)
    if not isinstance(model, Potential):
        raise ConfigError("the audit does not know this kind of model", got=type(model).__name__)
    structures = load_structures(asked.data, units=asked.units, skip_bad=asked.skip_bad)
    chosen = _chosen(structures, asked)
    atoms = [chosen.to_atoms(i) for i in range(len(chosen))]
    return audit_potential(model, atoms, effort=effort, labels=labels_of(chosen), on_progress=on_progress)


def missing_file(data: str) -> bool:
    """Whether it is a file of which one cannot tell what it would hold."""
    return Path(data).suffix.lower() == ".npz" and not Path(data).is_file()


def spread(length: int, num: int) -> np.ndarray:
    """At most `num` rows of so many, evenly spaced from the first to the last."""
    rows: np.ndarray = np.unique(np.linspace(0, length - 1, min(num, length)).round().astype(int))
    return rows


def labels_of(structures: Structures) -> dict[str, np.ndarray]:
    """Energies and forces, where every structure has them."""
    values = {"energy": structures.energy, "forces": structures.forces}
    return {
        name: value for name, value in values.items() if value is not None and bool(structures.labelled(name).all())
    }


def _chosen(structures: Structures, asked: Asked) -> Structures:
    structures = structures if asked.split is None else structures.split(asked.split)
    return structures.subset(spread(len(structures), asked.num))


def _forecaster(model: Forecaster, asked: Asked, effort: Effort, on_progress: OnProgress) -> Audit:
    systems = load_nbody(asked.data) if asked.split is None else load_nbody(asked.data).split(asked.split)
    part = NBodyPart.from_nbody(systems.rows(spread(len(systems), asked.num)), device="cpu", dtype=model.dtype)
    graph, later = part.batch(torch.arange(len(part)))
    return audit_forecaster(model, graph, effort=effort, later=later, on_progress=on_progress)


def _properties(model: PropertyModel, asked: Asked, effort: Effort, on_progress: OnProgress) -> Audit:
    """On QM9 with the true values, on other structures without."""
    values = None
    if asked.data == "qm9":
        structures, table = load_qm9()
        rows = np.arange(len(structures))
        if asked.split == "holdout":
            rows = np.flatnonzero(table.holdout)
        elif asked.split is not None:
            raise ConfigError("this data set has no such part", expected="holdout", got=asked.split)
        rows = rows[spread(len(rows), asked.num)]
        chosen = structures.subset(rows)
        values = torch.from_numpy(_true_values(model, table)[rows])
        values = values if bool(values.isfinite().all()) else None
    else:
        chosen = _chosen(load_structures(asked.data, units=asked.units, skip_bad=asked.skip_bad), asked)
    atoms = [chosen.to_atoms(i) for i in range(len(chosen))]
    return audit_properties(model, atoms, effort=effort, values=values, on_progress=on_progress)


def _true_values(model: PropertyModel, table: PropertyTable) -> np.ndarray:
    if model.vector:
        return table.vector(model.targets[0].name)[0]
    return np.stack([table.column(target.name) for target in model.targets], axis=1)


def _labels(model: LabelModel, asked: Asked, effort: Effort, on_progress: OnProgress) -> Audit:
    points = asked.points or model.num_points
    clouds = _clouds_of(load_labelled(asked.data, num_points=points), asked)
    check_names(model, clouds)
    batch = posed(clouds, "none", num_points=points, seed=CLOUD_SEED)
    return audit_labels(model, batch, effort=effort, truth=truth(batch, model.level), on_progress=on_progress)


def _denoiser(model: Denoiser, asked: Asked, effort: Effort, on_progress: OnProgress) -> Audit:
    chosen = _chosen(read_molecules(asked.data).structures, asked)
    chosen = chosen if 1 in model.elements else chosen.without_hydrogens()
    pos, numbers, ptr = (torch.from_numpy(np.asarray(x)) for x in (chosen.pos, chosen.numbers, chosen.ptr))
    return audit_denoiser(model, pos, ptr, numbers=numbers, effort=effort, on_progress=on_progress)


def _cloud_denoiser(model: Denoiser, asked: Asked, effort: Effort, on_progress: OnProgress) -> Audit:
    points = asked.points or max(model.sizes, default=512)
    clouds = _clouds_of(load_category(asked.data, num_points=points), asked)
    check_points(clouds, points)
    generator = torch.Generator().manual_seed(CLOUD_SEED)
    batch = draw_points(clouds, np.arange(len(clouds)), points, generator=generator)
    return audit_denoiser(model, batch.pos, batch.ptr, frame=batch.frame, effort=effort, on_progress=on_progress)


def _clouds_of(clouds: Clouds, asked: Asked) -> Clouds:
    clouds = clouds if asked.split is None else clouds.split(asked.split)
    return clouds.subset(spread(len(clouds), asked.num))
