"""Structures with the properties that are to be learned: parts, units, standardisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from geomol.data import Structures, load_qm9
from geomol.errors import ConfigError
from geomol.properties import Target
from geomol.train.config import TrainConfig
from geomol.train.sections import PropertyConfig
from geomol.train.setup import split_rows


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
