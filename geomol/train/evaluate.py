"""Predictions for many structures, and how far they are from their reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geomol.data import Structures
from geomol.graph import GraphStore
from geomol.potential import Potential


@dataclass(frozen=True, eq=False)
class PredictedStructures:
    """Flat arrays in the order of the structures: energy (S,) eV, forces (A, 3) eV/Å, stress (S, 3, 3) eV/Å³ or
    None.
    """

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of a potential on labelled structures, with the arrays they were computed from.

    `metrics` has units in the key names; mean absolute errors run over force components. `arrays` holds what parity
    plots need.
    """

    metrics: dict[str, float]
    per_element: dict[int, float]
    arrays: dict[str, np.ndarray]


def predict(
    potential: Potential,
    structures: Structures,
    *,
    batch_size: int = 32,
    stress: bool = False,
    device: str | torch.device = "cpu",
) -> PredictedStructures:
    """Energies, forces and on request stresses of all structures, in batches of up to `batch_size`."""
    s = structures
    store = GraphStore.from_arrays(s.pos, s.numbers, s.ptr, s.cell, s.pbc, potential.cutoff, device=device)
    energy, forces, stresses = [], [], []
    for start in range(0, len(s), batch_size):
        graph = store.batch(torch.arange(start, min(start + batch_size, len(s))))
        out = potential(graph, forces=True, stress=stress)
        energy.append(out.energy.cpu().numpy())
        forces.append(out.forces.cpu().numpy())
        if stress:
            stresses.append(out.stress.cpu().numpy())
    return PredictedStructures(
        np.concatenate(energy), np.concatenate(forces), np.concatenate(stresses) if stress else None
    )


def evaluate(
    potential: Potential, structures: Structures, *, batch_size: int = 32, device: str | torch.device = "cpu"
) -> Evaluation:
    """MAE and RMSE of energy, forces and stress against the labels that the structures carry.

    Structures without a label do not count; where only some have one, `num_with_…` says how many.
    """
    stressed = np.zeros(len(structures), dtype=np.bool_)
    if structures.stress is not None:
        stressed = ~np.isnan(structures.stress).any(axis=(1, 2))
    out = predict(potential, structures, batch_size=batch_size, stress=bool(stressed.all()), device=device)
    num_atoms = np.diff(structures.ptr)
    arrays = {
        "numbers": structures.numbers,
        "ptr": structures.ptr,
        "energy_pred": out.energy,
        "forces_pred": out.forces,
    }
    metrics: dict[str, float] = {"num_structures": float(len(structures))}
    per_element: dict[int, float] = {}
    if structures.energy is not None:
        error = out.energy - structures.energy
        arrays["energy_ref"] = structures.energy
        known = ~np.isnan(structures.energy)
        metrics |= _labelled("energy", known)
        metrics |= _errors("energy", "eV", error[known])
        metrics |= _errors("energy_per_atom", "eV", (error / num_atoms)[known])
    if structures.forces is not None:
        error = out.forces - structures.forces
        arrays["forces_ref"] = structures.forces
        known = ~np.isnan(structures.forces).any(axis=1)
        metrics |= _labelled("forces", np.logical_and.reduceat(known, structures.ptr[:-1]))
        metrics |= _errors("force", "eV_per_A", error[known])
        for z in np.unique(structures.numbers[known]).tolist():
            per_element[z] = float(np.abs(error[known & (structures.numbers == z)]).mean())
    if structures.stress is not None:
        found = np.full_like(structures.stress, np.nan) if out.stress is None else out.stress
        if out.stress is None and stressed.any():  # the others may have no cell, hence none
            some = predict(potential, structures.subset(stressed), batch_size=batch_size, stress=True, device=device)
            found[stressed] = some.stress
        arrays |= {"stress_ref": structures.stress, "stress_pred": found}
        metrics |= _labelled("stress", stressed)
        metrics |= _errors("stress", "eV_per_A3", (found - structures.stress)[stressed])
    return Evaluation(metrics, per_element, arrays)


def _labelled(name: str, known: np.ndarray) -> dict[str, float]:
    """How many structures have a label, unless all have."""
    return {} if known.all() else {f"num_with_{name}": float(known.sum())}


def _errors(name: str, unit: str, error: np.ndarray) -> dict[str, float]:
    """Of labels that there are; nothing where there are none."""
    if not error.size:
        return {}
    return {
        f"{name}_mae_{unit}": float(np.abs(error).mean()),
        f"{name}_rmse_{unit}": float(np.sqrt(np.mean(error**2))),
    }


def save_evaluation(evaluation: Evaluation, folder: Path, name: str) -> None:
    """Writes <name>.json (metrics) and <name>.npz (arrays) into a folder, where the report finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {**evaluation.metrics, "force_mae_eV_per_A_by_element": evaluation.per_element}
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(folder / f"{name}.npz", **evaluation.arrays)  # type: ignore[arg-type]
