"""`geomol predict MODEL in.xyz -o out.xyz`: energies and forces, or properties, of many structures."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from geomol.checkpoint import load_model
from geomol.checkpoint.atomic import write_atomically
from geomol.cli.arguments import (
    BatchOption,
    DeviceOption,
    DtypeOption,
    ModelArgument,
    SkipBadOption,
    ThreadsOption,
    UnitsOption,
    cpu_threads,
)
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.data import Structures, load_structures, structures_of_lines, write_extxyz
from geomol.data.smiles_files import SMILES_FILES, read_smiles_file, smiles_of_words
from geomol.data.suited import suited_structures
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError
from geomol.labels import LabelModel
from geomol.potential import Potential
from geomol.properties import PropertyModel
from geomol.train import embed, embed_clouds, load_labelled, predict, properties_of

InputArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A file of structures, a data set, a .smi file, or SMILES with commas after 'smiles:'."
    ),
]


def predict_command(
    model: ModelArgument,
    data: InputArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Extended xyz for energies, .csv for properties.")
    ],
    split: Annotated[str | None, typer.Option("--split", help="A part of a data set.")] = None,
    batch_size: BatchOption = 32,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    units: UnitsOption = None,
    skip_bad: SkipBadOption = False,
    json_file: JsonOption = None,
) -> None:
    """Write every structure with its predicted energy, forces and, where all are periodic, stress; or a table of its
    predicted properties.
    """
    loaded = load_model(model, device=device, dtype=dtype)
    structures, names = _structures(data, loaded.elements, split, units, skip_bad=skip_bad)
    if isinstance(loaded, PropertyModel):
        with cpu_threads(threads):
            table = properties_of(loaded, structures)
        _write_table(out, names, table)
        console_for(json_file).print(f"{len(structures)} structures: {out}", soft_wrap=True)
        write_json({"names": names, **table}, json_file)
        return
    if not isinstance(loaded, Potential):
        raise ConfigError(
            "this model predicts no energies and no properties", where=model, expected="a potential or a property model"
        )
    with_stress = bool(structures.pbc.all())
    with cpu_threads(threads):
        found = predict(loaded, structures, batch_size=batch_size, stress=with_stress, device=device)
    labelled = replace(structures, energy=found.energy, forces=found.forces, stress=found.stress)
    write_extxyz(out, labelled)
    console_for(json_file).print(f"{len(structures)} structures: {out}", soft_wrap=True)
    write_json({"energy_eV": found.energy, "forces_eV_per_A": found.forces, "ptr": structures.ptr}, json_file)


def embed_command(
    model: ModelArgument,
    data: InputArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help=".npz: features (S, C) and names.")],
    split: Annotated[str | None, typer.Option("--split", help="A part of a data set.")] = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Write what the last hidden layer of a model holds of each structure: features for models of one's own."""
    loaded = load_model(model)
    if isinstance(loaded, Denoiser):
        raise ConfigError(
            "features are read off potentials, forecasts, properties and labels", where=model, got="Denoiser"
        )
    with cpu_threads(threads):
        if isinstance(loaded, LabelModel):
            clouds = load_labelled(data, num_points=loaded.num_points)
            clouds = clouds if split is None else clouds.split(split)
            features, names = embed_clouds(loaded, clouds), [str(k) for k in range(len(clouds))]
        else:
            structures, names = _structures(data, loaded.elements, split, None, skip_bad=False)
            features = embed(loaded.backbone, structures)
    buffer = io.BytesIO()
    np.savez(buffer, features=features, names=np.array(names))
    write_atomically(out, buffer.getvalue())
    console_for(json_file).print(f"{features.shape[0]} structures, {features.shape[1]} features: {out}", soft_wrap=True)
    write_json({"num_structures": features.shape[0], "num_features": features.shape[1]}, json_file)


def _structures(
    data: str, elements: Collection[int], split: str | None, units: str | None, *, skip_bad: bool
) -> tuple[Structures, list[str]]:
    """What a model for these elements is asked about, with a name for each."""
    is_file = Path(data).suffix.lower() in SMILES_FILES
    if is_file or data.startswith("smiles:"):
        if split is not None:
            raise ConfigError("SMILES have no parts", remedy="leave out --split")
        lines = read_smiles_file(data) if is_file else smiles_of_words(data.removeprefix("smiles:"))
        structures, names = structures_of_lines(lines, skip_bad=skip_bad)
        where, places = "SMILES", names
    else:
        structures = load_structures(data, units=units, skip_bad=skip_bad)
        structures = structures if split is None else structures.split(split)
        names = [str(i) for i in range(len(structures))]
        where, places = data, [f"{data}, frame {name}" for name in names]
    kept = suited_structures(structures, elements, places, where=where, skip_bad=skip_bad)
    return structures.subset(kept), [name for name, keep in zip(names, kept, strict=True) if keep]


def _write_table(path: Path, names: list[str], table: dict[str, np.ndarray]) -> None:
    """One line for each structure; a vector has three columns."""
    columns: dict[str, np.ndarray] = {}
    for name, values in table.items():
        if values.ndim == 1:
            columns[name] = values
        else:
            columns |= {f"{name}_{axis}": values[:, k] for k, axis in enumerate("xyz")}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["structure", *columns])
    for i, name in enumerate(names):
        writer.writerow([name, *(repr(float(values[i])) for values in columns.values())])
    write_atomically(path, text.getvalue().encode())
