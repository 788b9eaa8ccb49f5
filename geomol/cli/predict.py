"""`geomol predict MODEL in.xyz -o out.xyz`: energies and forces, or properties, of many structures."""

from __future__ import annotations

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
    VotesOption,
    check_votes,
    cpu_threads,
)
from geomol.cli.output import JsonOption, console_for, write_json, write_rows
from geomol.cli.predict_labels import names_of, predict_labels
from geomol.data import SCANS, Structures, load_structures, structures_of_lines, write_extxyz
from geomol.data.smiles_files import SMILES_FILES, read_smiles_file, smiles_of_words
from geomol.data.suited import suited_structures
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError
from geomol.labels import LabelModel
from geomol.potential import Potential
from geomol.properties import PropertyModel
from geomol.train import clouds_for, embed, embed_clouds, predict, properties_of

TABLE = ".csv"
STRUCTURES = (".xyz", ".extxyz")
InputArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A file of structures, a data set, a .smi file, or SMILES with commas after 'smiles:'. For models of "
        f"clouds, a set or category, an .npz, a mesh or points ({' '.join(SCANS)}), or a folder of such files.",
    ),
]


def predict_command(
    model: ModelArgument,
    data: InputArgument,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Extended xyz for energies, otherwise .csv."),
    ],
    split: Annotated[str | None, typer.Option("--split", help="A part of a data set.")] = None,
    batch_size: BatchOption = 32,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    units: UnitsOption = None,
    skip_bad: SkipBadOption = False,
    votes: VotesOption = 1,
    json_file: JsonOption = None,
) -> None:
    """Write every structure with its predicted energy, forces and, where all are periodic, stress; or a table of its
    predicted properties; or of the classes of clouds, or the parts of their points.
    """
    loaded = load_model(model, device=device, dtype=dtype)
    if not isinstance(loaded, Potential | PropertyModel | LabelModel):
        expected = "a potential, a property model or a model of labels"
        raise ConfigError("this model predicts no energies, properties or labels", where=model, expected=expected)
    suffixes = STRUCTURES if isinstance(loaded, Potential) else (TABLE,)
    if out.suffix.lower() not in suffixes:
        raise ConfigError(
            "this model's answers are not written to such files", where=str(out), expected=" ".join(suffixes)
        )
    _check_out(out, data)
    if isinstance(loaded, LabelModel):
        if units is not None or skip_bad:
            raise ConfigError("--units and --skip-bad are for structures", where=model, remedy="leave them out")
        with cpu_threads(threads):
            predict_labels(loaded, data, out, split=split, votes=votes, json_file=json_file)
        return
    check_votes(votes, model)
    structures, names = _structures(data, loaded.elements, split, units, skip_bad=skip_bad)
    if isinstance(loaded, PropertyModel):
        with cpu_threads(threads):
            table = properties_of(loaded, structures)
        _write_table(out, names, table)
        console_for(json_file).print(f"{len(structures)} structures: {out}", soft_wrap=True)
        write_json({"names": names, **table}, json_file)
        return
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
    if out.suffix.lower() != ".npz":
        raise ConfigError("features are not written to such files", where=str(out), expected=".npz")
    _check_out(out, data)
    with cpu_threads(threads):
        if isinstance(loaded, LabelModel):
            clouds = clouds_for(loaded, data)
            clouds = clouds if split is None else clouds.split(split)
            features, names = embed_clouds(loaded, clouds), names_of(clouds)
        else:
            structures, names = _structures(data, loaded.elements, split, None, skip_bad=False)
            features = embed(loaded.backbone, structures)
    buffer = io.BytesIO()
    np.savez(buffer, features=features, names=np.array(names))
    write_atomically(out, buffer.getvalue())
    console_for(json_file).print(f"{features.shape[0]} structures, {features.shape[1]} features: {out}", soft_wrap=True)
    write_json({"num_structures": features.shape[0], "num_features": features.shape[1]}, json_file)


def _check_out(out: Path, data: str) -> None:
    """Raises ConfigError where the answers would take the place of the question, or be read as one the next time."""
    source, target = Path(data).resolve(), out.resolve()
    if target == source or (source.is_dir() and target.parent == source):
        raise ConfigError("the answers would lie among the data", where=str(out), remedy="give --out another place")


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
        names = [str(row) for row in structures.rows_in_source]
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
    rows = ([name, *(float(values[i]) for values in columns.values())] for i, name in enumerate(names))
    write_rows(path, ["structure", *columns], rows)
