"""Which run a folder holds, and whether it can be continued."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from geomol.checkpoint import load_state
from geomol.errors import ConfigError, GeomolWarning, ResumeError
from geomol.md.config import MDConfig

_FREE = ("steps", "checkpoint_interval")  # settings that do not change what a step does
_ENERGY_TOLERANCE = 1e-6  # relative; more is another potential, less is another machine or thread count


def state_folder(folder: Path, name: str) -> Path:
    """Where the checkpoints of a run are."""
    return folder / f"{name}.state"


def identity(atoms: Atoms, calculator: Any, config: MDConfig) -> dict[str, Any]:
    """What must stay the same from session to session: settings, start and potential."""
    digest = hashlib.sha256()
    momenta = atoms.get_momenta() if config.momenta == "keep" else np.zeros(0)
    constraints = json.dumps([repr(c) for c in atoms.constraints]).encode()
    for part in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses(), momenta):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(constraints)
    return {
        **config.model_dump(exclude=set(_FREE)),
        "structure": digest.hexdigest(),
        "potential": str(getattr(calculator, "fingerprint", type(calculator).__name__)),
    }


def find_checkpoint(
    folder: Path, config: MDConfig, who: dict[str, Any], *, resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """The checkpoint to continue from, or None for a new run, whose way is then clear.

    Raises:
        ConfigError: files of an earlier run, and neither `resume` nor `overwrite`.
        ResumeError: the checkpoint belongs to another run (all differences are listed) or is beyond its end.
    """
    name = config.name
    checkpoints = state_folder(folder, name)
    files = [folder / f"{name}{end}" for end in (".extxyz", ".csv", ".json", ".last_good.extxyz")]
    files += sorted(checkpoints.glob("state*.safetensors"))
    present = [path for path in files if path.exists()]
    if present and not (resume or overwrite):
        raise ConfigError(
            "there is an earlier run here", got=str(present[0]), remedy="ask to resume or to overwrite it"
        )
    saved = load_state(checkpoints) if resume and not overwrite else None
    if saved is None:
        for path in present:
            path.unlink()
        return None
    before = json.loads(saved["identity"])
    different = [f"{key}: {before.get(key)!r} → {who.get(key)!r}" for key in who if before.get(key) != who[key]]
    if different:
        raise ResumeError(
            f"this is another run: {'; '.join(different)}",
            where=str(checkpoints),
            remedy="restore the settings, or start anew with overwrite",
        )
    if saved["step"] > config.steps:
        raise ResumeError("the run is longer already", expected=f"steps >= {saved['step']}", got=str(config.steps))
    return saved


def check_resumable(before: float, now: float) -> None:
    """Compare the potential energy at the checkpoint with the one computed anew.

    Raises:
        ResumeError: they differ by more than rounding.
    """
    if before == now:
        return
    if not math.isclose(before, now, rel_tol=_ENERGY_TOLERANCE, abs_tol=_ENERGY_TOLERANCE):
        expected, got = f"{before!r} eV", f"{now!r} eV"
        raise ResumeError("the calculator gives another energy at the checkpoint", expected=expected, got=got)
    warnings.warn(
        "the calculator rounds differently than before (other machine, thread count or library version): "
        "the run continues, but not bit for bit",
        GeomolWarning,
        stacklevel=2,
    )
