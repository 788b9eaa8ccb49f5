"""The JSON summary of a run, from its table alone: a continued run has the same one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from geomol.md.config import MDConfig
from geomol.md.integrators import degrees_of_freedom
from geomol.md.observables import energy_drift, mean_with_interval


def read_table(path: str | Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a table of observables, by name."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    values = np.array(rows[1:], dtype=np.float64).reshape(-1, len(rows[0]))
    return {name: values[:, k] for k, name in enumerate(rows[0])}


def summarise(table: Path, atoms: Atoms, config: MDConfig) -> dict[str, Any]:
    """Means with 95 % intervals, and for nve the drift of the total energy."""
    columns = read_table(table)
    summary: dict[str, Any] = {
        "settings": config.model_dump(exclude={"checkpoint_interval"}),
        "num_atoms": len(atoms),
        "degrees_of_freedom": degrees_of_freedom(atoms, config.ensemble),
        "time_ps": config.steps * config.timestep_fs / 1000.0,
    }
    for name, series in columns.items():
        if name != "time_fs":
            summary[f"{name}_mean"], summary[f"{name}_mean_95"] = _finite(mean_with_interval(series))
            summary[f"{name}_std"] = float(series.std())
    if config.ensemble == "nve" and len(columns["time_fs"]) >= 3:
        drift = energy_drift(columns["time_fs"], columns["total_eV"], len(atoms))
        summary["drift_meV_per_atom_per_ns"], summary["drift_95_meV_per_atom_per_ns"] = _finite(drift)
    return summary


def _finite(estimate: Any) -> tuple[float, float | None]:
    """Value and half-width; None (null) where too few values give no interval."""
    half = estimate.half_width
    return estimate.value, half if np.isfinite(half) else None
