"""`geomol predict MODEL in.xyz -o out.xyz`: energies, forces and stresses of many structures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from geomol.checkpoint import load_potential
from geomol.cli.arguments import (
    BatchOption,
    DataArgument,
    DeviceOption,
    DtypeOption,
    ModelArgument,
    SkipBadOption,
    ThreadsOption,
    UnitsOption,
    cpu_threads,
)
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.data import load_structures, write_extxyz
from geomol.train import predict


def predict_command(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="An extended xyz file, which ASE reads.")],
    split: Annotated[str | None, typer.Option("--split", help="A part of a data set.")] = None,
    batch_size: BatchOption = 32,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    units: UnitsOption = None,
    skip_bad: SkipBadOption = False,
    json_file: JsonOption = None,
) -> None:
    """Write every structure with its predicted energy, forces and, where all are periodic, stress."""
    potential = load_potential(model, device=device, dtype=dtype)
    structures = load_structures(data, units=units, skip_bad=skip_bad)
    if split is not None:
        structures = structures.split(split)
    with_stress = bool(structures.pbc.all())
    with cpu_threads(threads):
        found = predict(potential, structures, batch_size=batch_size, stress=with_stress, device=device)
    labelled = replace(structures, energy=found.energy, forces=found.forces, stress=found.stress)
    write_extxyz(out, labelled)
    console_for(json_file).print(f"{len(structures)} structures: {out}", soft_wrap=True)
    write_json({"energy_eV": found.energy, "forces_eV_per_A": found.forces, "ptr": structures.ptr}, json_file)
