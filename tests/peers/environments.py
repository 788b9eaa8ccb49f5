"""Which packages a peer needs, with which pins, and a virtual environment for each group of them.

Peers pin each other's dependencies apart: mace-torch wants e3nn 0.4.4, NequIP 0.6; together the resolver goes back to
versions years old without a word. Hence one environment a group, torch always first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TORCH = "torch==2.13.0"
INSTALL_LIMIT = 3600.0  # seconds for one pip command


class EnvironmentFailedError(Exception):
    """An environment could not be made; the message is the reason for the table."""


@dataclass(frozen=True)
class Group:
    """Packages installed together, after torch, and the variables their workers run with."""

    packages: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


GROUPS = {
    "pyg": Group(("torch-geometric>=2.8", "ase>=3.26", "vesin>=0.6", "scipy>=1.13")),
    # e3nn 0.4.4 stores its constants as a pickle, which torch >= 2.6 refuses to load by default; the file comes from
    # the package itself.
    "mace": Group(("mace-torch==0.3.16",), {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}),
    "nequip": Group(("nequip==0.19.1",)),
    # its calculator reads the model from a pickle, which models.py has just written
    "schnetpack": Group(("schnetpack==2.0.4",), {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}),
    "torchmdnet": Group(("torchmd-net==3.1.0", "ase>=3.26")),
    "sevennet": Group(("sevenn==0.13.0",)),
    "e3nn": Group(("e3nn==0.6.0", "ase>=3.26", "vesin>=0.6")),
    # It imports PyG and torch-scatter without asking for them, and the second has no wheels: averaged.py puts PyG's sum
    # in its place. Of its table of elements, mendeleev 1.3 lacks a column, and does not read with SQLAlchemy 2.1.
    "faenet": Group(
        ("faenet==0.1.3", "mendeleev==0.20.1", "sqlalchemy<2.1", "torch-geometric>=2.8", "ase>=3.26", "vesin>=0.6")
    ),
}

# the group of each peer of models.py; None is the environment of the command itself
GROUP_OF: dict[str, str | None] = {
    "schnet-pyg": "pyg",
    "dimenet": "pyg",
    "mace": "mace",
    "mace-l1": "mace",
    "nequip": "nequip",
    "schnetpack": "schnetpack",
    "tensornet": "torchmdnet",
    "et": "torchmdnet",
    "sevennet": "sevennet",
    "e3nn": "e3nn",
    "faenet": "faenet",
    "faenet-all": "faenet",
    "lennard-jones": None,
    "emt": None,
}


def python_of(folder: Path, group: str) -> Path:
    """The interpreter of a group's environment under `folder`, whether it exists or not."""
    return folder / group / "bin" / "python"


def create(folder: Path, group: str) -> Path:
    """Makes the environment of a group unless it is there with the same packages; returns its interpreter.

    Raises:
        EnvironmentFailedError: pip or venv failed; the message holds its last line.
    """
    wanted = GROUPS[group]
    python, log = python_of(folder, group), folder / f"{group}.log"
    stamp = folder / group / "packages.txt"
    text = "\n".join([TORCH, *wanted.packages, ""])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == text:
        return python
    folder.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    _step([sys.executable, "-m", "venv", "--clear", str(folder / group)], log)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    _step([*pip, TORCH], log)
    _step([*pip, TORCH, *wanted.packages], log)  # named again, so that no peer replaces it
    stamp.write_text(text, encoding="utf-8")
    return python


def worker_variables(group: str | None, threads: int, root: Path) -> dict[str, str]:
    """The process environment of a worker: fixed threads, idle ones asleep rather than spinning beside the other."""
    variables = {**os.environ, **(dict(GROUPS[group].variables) if group else {})}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        variables[name] = str(threads)
    variables["OMP_WAIT_POLICY"] = "PASSIVE"
    if group is None:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    else:
        variables.pop("PYTHONPATH", None)
        variables["PYTHONNOUSERSITE"] = "1"
    return variables


def _step(command: list[str], log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write("$ " + " ".join(command) + "\n")
        file.flush()
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=INSTALL_LIMIT, check=False
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnvironmentFailedError(f"does not install: {error}") from error
    if done:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        raise EnvironmentFailedError(f"does not install: {(errors or lines)[-1][:300]}")
