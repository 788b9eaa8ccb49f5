"""The JSON summary of a batch of simulations, from its table alone: a continued run has the same one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geomol.md.batched_run import Replica, Stopped
from geomol.md.config import MDConfig
from geomol.md.observables import energy_drift, mean_with_interval
from geomol.md.summary import read_table

_QUANTITIES = ("temperature_K", "potential_eV", "kinetic_eV", "total_eV")


def summarise_batch(
    table: Path, replicas: Sequence[Replica], freedoms: Sequence[int], stopped: Sequence[Stopped], config: MDConfig
) -> dict[str, Any]:
    """Means of each replica, and over all of them; for nve also the drifts of the total energies."""
    columns = read_table(table)
    ends = {entry.replica: entry for entry in stopped}
    order = np.argsort(columns["replica"], kind="stable")
    bounds = np.searchsorted(columns["replica"][order], np.arange(len(replicas) + 1))
    entries = []
    for k, replica in enumerate(replicas):
        rows = order[bounds[k] : bounds[k + 1]]
        entry: dict[str, Any] = {
            "replica": k,
            "target_K": replica.temperature_K,
            "seed": list(replica.seed),
            "num_atoms": len(replica.atoms),
            "degrees_of_freedom": freedoms[k],
            "stopped": ends[k].reason if k in ends else None,
        }
        for name in _QUANTITIES:
            entry[f"{name}_mean"] = float(columns[name][rows].mean())
            entry[f"{name}_std"] = float(columns[name][rows].std())
        if config.ensemble == "nve" and len(rows) >= 3:
            drift = energy_drift(columns["time_fs"][rows], columns["total_eV"][rows], len(replica.atoms))
            entry["drift_meV_per_atom_per_ns"] = drift.value
        entries.append(entry)
    return {
        "settings": config.model_dump(exclude={"checkpoint_interval"}),
        "num_replicas": len(replicas),
        "num_stopped": len(stopped),
        "time_ps": config.steps * config.timestep_fs / 1000.0,
        **_overall(entries),
        "replicas": entries,
    }


def _overall(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the replicas that reached the end, with 95 % intervals from their spread, since they are independent.

    Only what has the same meaning for all: energies of different structures are not averaged.
    """
    done = [entry for entry in entries if entry["stopped"] is None]
    names = ["temperature_K"] if len({entry["target_K"] for entry in done}) == 1 else []
    out: dict[str, float] = {}
    for name in [*names, "drift_meV_per_atom_per_ns"]:
        key = name if name.startswith("drift") else f"{name}_mean"
        values = np.array([entry[key] for entry in done if key in entry])
        if len(values) > 1:
            out[f"{name}_mean"] = float(values.mean())
            out[f"{name}_mean_95"] = float(mean_with_interval(values).half_width)
    return out
