"""From labelled structures to what training needs: splits, flat stores with neighbour lists, energy offsets and
scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.data import Structures, load_structures, official_split, random_split
from geomol.errors import ConfigError, InputError
from geomol.graph import Graph, GraphStore
from geomol.train.losses import Labels
from geomol.train.sections import DataConfig


def split_structures(structures: Structures, config: DataConfig) -> dict[str, Structures]:
    """Train, valid and test parts as the configuration says; "test" is absent where nothing is left for it.

    Raises:
        ConfigError: the data carry no such split, or the sizes exceed the data.
    """
    return {name: structures.subset(rows) for name, rows in split_rows(structures, config).items()}


def split_rows(structures: Structures, config: DataConfig) -> dict[str, np.ndarray]:
    """Row numbers of each part."""
    if config.split.startswith("official_"):
        return official_split(structures, int(config.split.removeprefix("official_")))
    if config.split == "random":
        if config.num_train is None or config.num_valid is None:
            raise ConfigError('data.split = "random" needs data.num_train and data.num_valid')
        rest = len(structures) - config.num_train - config.num_valid
        sizes = {"train": config.num_train, "valid": config.num_valid, "test": config.num_test or max(0, rest)}
        rows = random_split(len(structures), sizes, seed=config.seed)
        return {name: index for name, index in rows.items() if len(index)}
    stored = structures.splits
    if "train" not in stored or ("valid" not in stored and config.num_valid is None):
        raise ConfigError(
            f"{structures.name} has no stored train and valid parts",
            got=", ".join(sorted(stored)) or "no splits",
            remedy="set data.num_valid to hold out some of the stored training part, or choose another data.split",
        )
    rows = {name: stored[name] for name in ("train", "valid", "test") if name in stored}
    if "valid" not in rows:
        assert config.num_valid is not None
        sizes = {"valid": config.num_valid, "train": len(rows["train"]) - config.num_valid}
        parts = random_split(len(rows["train"]), sizes, seed=config.seed)
        rows |= {name: rows["train"][np.sort(index)] for name, index in parts.items()}
    return rows


def recorded_test_rows(manifest: Mapping[str, Any], structures: Structures) -> np.ndarray:
    """Rows that a trained model was neither fitted nor chosen on, by the split that its file records."""
    flat = manifest.get("provenance", {}).get("config", {})
    settings = {key.removeprefix("data."): value for key, value in flat.items() if key.startswith("data.")}
    if not settings:
        raise ConfigError("the model's file does not say what it was trained on")
    return split_rows(structures, DataConfig(**settings)).get("test", np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class LabelledStore:
    """A part of the data as flat arrays on the device, ready to be batched by index."""

    store: GraphStore
    energy: Float[Tensor, " S"]
    forces: Float[Tensor, "A 3"] | None
    stress: Float[Tensor, "S 3 3"] | None

    @classmethod
    def from_structures(cls, structures: Structures, cutoff: float, device: str = "cpu") -> LabelledStore:
        """Neighbour lists of all structures, computed once.

        Raises:
            InputError: no energies.
        """
        s = structures
        if s.energy is None:
            raise InputError("no energies to train on or compare with", where=s.name)
        for quantity in ("energy", "forces", "stress"):
            missing = int((~s.labelled(quantity)).sum()) if getattr(s, quantity) is not None else 0
            if missing:
                raise InputError(
                    f"{missing} of {len(s)} structures lack a label: {quantity}",
                    where=s.name,
                    remedy="choose a split that leaves them out",
                )
        store = GraphStore.from_arrays(s.pos, s.numbers, s.ptr, s.cell, s.pbc, cutoff, device=device)

        def tensor(array: np.ndarray | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(np.asarray(array, dtype=np.float64)).to(device)

        return cls(store, torch.from_numpy(s.energy.astype(np.float64)).to(device), tensor(s.forces), tensor(s.stress))

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, index: Int[Tensor, " B"], rotation: Float[Tensor, "B 3 3"] | None = None) -> tuple[Graph, Labels]:
        """Graph and labels of some structures, all rotated alike if rotations are given."""
        index = index.to(self.energy.device)
        rotation = None if rotation is None else rotation.to(self.energy.device)
        graph = self.store.batch(index, rotation=rotation)
        forces = None if self.forces is None else self.forces[self.store.node_index(index)]
        stress = None if self.stress is None else self.stress[index]
        if rotation is not None:
            if forces is not None:
                forces = torch.einsum("nij,nj->ni", rotation[graph.batch], forces)
            if stress is not None:
                stress = rotation @ stress @ rotation.mT
        return graph, Labels(self.energy[index], forces, stress)


def fit_offsets(structures: Structures) -> tuple[list[int], list[float]]:
    """Elements and their energies E0 (eV) by least squares of the total energies on the composition.

    Where compositions do not tell elements apart (one kind of molecule) the solution of least norm is taken.
    """
    elements = structures.elements()
    assert structures.energy is not None
    owner = np.repeat(np.arange(len(structures)), np.diff(structures.ptr))
    counts = np.zeros((len(structures), len(elements)))
    np.add.at(counts, (owner, np.searchsorted(elements, structures.numbers)), 1)
    e0 = np.linalg.lstsq(counts, structures.energy, rcond=None)[0]
    return elements, [float(e) for e in e0]


def energy_scale(structures: Structures, e0: list[float], elements: list[int]) -> float:
    """RMS force component (eV/Å), or without forces the standard deviation of the energy per atom left by the
    offsets.
    """
    if structures.forces is not None:
        scale = float(np.sqrt(np.mean(structures.forces**2)))
    else:
        assert structures.energy is not None
        offsets = np.asarray(e0)[np.searchsorted(elements, structures.numbers)]
        rest = structures.energy - np.add.reduceat(offsets, structures.ptr[:-1])
        scale = float(np.std(rest / np.diff(structures.ptr)))
    return scale if scale > 0 else 1.0


def load_splits(config: DataConfig) -> tuple[Structures, dict[str, Structures]]:
    """The whole set and its parts."""
    structures = load_structures(
        config.source,
        units=config.units,
        energy_key=config.energy_key,
        forces_key=config.forces_key,
        stress_key=config.stress_key,
    )
    return structures, split_structures(structures, config)
