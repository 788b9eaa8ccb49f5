"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from ase import Atoms

from geomol.data import load_frames
from geomol.errors import ConfigError

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .safetensors file, a run folder, or a name in models/.")
]
DataArgument = Annotated[
    str,
    typer.Argument(metavar="DATA", help="A file (.xyz, .extxyz, .traj, .db, .npz, .sdf) or the name of a data set."),
]
VotesOption = Annotated[
    int, typer.Option("--votes", min=1, help="Labels: poses about the vertical that are asked and averaged.")
]
StructureArgument = Annotated[
    str, typer.Argument(metavar="STRUCTURE", help="A file of structures or the name of a data set; see --index.")
]
IndexOption = Annotated[int, typer.Option("--index", help="Which structure to take, from 0; -1 is the last.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, …")]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="Precision: float32 or float64; as stored by default.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; one is fastest for small molecules.")
]
TabulateOption = Annotated[
    bool,
    typer.Option(
        "--tabulate", help="Read learned kernels from tables: forces within 0.1 meV/Å, or 1e-4 of large ones."
    ),
]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Structures computed at once.")]
UnitsOption = Annotated[
    str | None,
    typer.Option("--units", metavar="ENERGY[,LENGTH]", help='Units of the file, such as "kcal/mol" or "Hartree,Bohr".'),
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Leave out bad frames, and say which.")]


def run_folder(model: str) -> Path | None:
    """The run that a model argument names, where results about it belong; None for a file or a shipped model."""
    folder = Path(model)
    return folder if (folder / "config.json").is_file() and (folder / "metrics.csv").is_file() else None


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Compute with this many threads for the length of a `with` block; None leaves torch's choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_votes(votes: int, model: str) -> None:
    """Raises ConfigError for several poses asked of a model that is asked in one."""
    if votes != 1:
        raise ConfigError("only a model of labels is asked in several poses", where=model, remedy="leave --votes out")


def key_values(words: list[str]) -> dict[str, str]:
    """Settings written as key=value.

    Raises:
        ConfigError: a word without "=".
    """
    pairs = [word.partition("=") for word in words]
    for key, equals, _ in pairs:
        if not equals or not key:
            raise ConfigError("a setting is written key=value", got=key)
    return {key: value for key, _, value in pairs}


def structure_at(data: str, index: int) -> Atoms:
    """One structure of a file or data set, with all that `load_frames` gives it.

    Raises:
        ConfigError: no structure has this number.
    """
    (atoms,) = load_frames(data, index)
    return atoms
