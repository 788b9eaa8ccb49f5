"""`geomol score FILE`: how many generated molecules are stable, valid, different and new, by stated protocols."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geomol.cli.output import JsonOption, console_for, named_figure, print_figures, write_json, write_rows
from geomol.cli.score_clouds import score_cloud_file
from geomol.data.cloud_categories import names_clouds
from geomol.data.smiles_files import SMILES_FILES, read_smiles_file
from geomol.errors import ConfigError, nearest
from geomol.generate.molecules import Molecules
from geomol.generate.perception import TIME_LIMIT_S
from geomol.generate.physics import PHYSICS, physics_figures
from geomol.generate.protocols import PROTOCOLS, Protocol, rdkit_protocol
from geomol.generate.read import read_molecules
from geomol.generate.score import Score, score
from geomol.generate.smiles import rdkit_version

TRAINING_SMILES = (*SMILES_FILES, ".txt")
FAULTS_SHOWN = 5


def score_command(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Molecules: .sdf, .xyz, .extxyz, .npz, or the name of a data set; or clouds of points: .npz.",
        ),
    ],
    protocols: Annotated[
        list[str] | None, typer.Option("--protocol", "-p", help=f"One of {', '.join(PROTOCOLS)}; may be repeated.")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="DATA",
            help="Training molecules, for novelty and the data row: a file, a data set, or SMILES (.smi).",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="DATA", help="Molecules for the data row, scored by the same code."),
    ] = None,
    reference_size: Annotated[
        int | None,
        typer.Option("--reference-size", min=1, help="Score this many of --reference, drawn at random (seed 0)."),
    ] = None,
    physics: Annotated[
        list[str] | None,
        typer.Option("--physics", help=f"Further figures: {', '.join(PHYSICS)}; may be repeated."),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the verdict on every molecule as a table.")
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=0.01, help="Seconds for one molecule in the protocol rdkit.")
    ] = TIME_LIMIT_S,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of the protocol rdkit.")] = 1,
    rotation: Annotated[
        str, typer.Option("--rotation", help="Turn all clouds of points at random: none, z or so3.")
    ] = "none",
    json_file: JsonOption = None,
) -> None:
    """Stability, validity, uniqueness and novelty with standard errors; what fails stays in the denominator."""
    if names_clouds(file):
        score_cloud_file(file, reference=reference, num=reference_size, rotation=rotation, json_file=json_file)
        return
    chosen = _protocols(protocols or ["edm"], time_limit, workers)
    console = console_for(json_file)
    molecules = read_molecules(file)
    train_smiles, train_rows = _training(console, train, chosen)
    data_rows, data_name = train_rows, train
    if reference is not None:
        data_rows, data_name = _data_rows(console, reference, chosen, reference_size)[1], reference
    scores = {name: score(molecules, run, train_smiles=train_smiles.get(name)) for name, run in chosen.items()}
    version = rdkit_version()
    console.print(
        f"[bold]{escape(file)}[/]: {len(molecules)} molecules, {len(molecules.faults)} unreadable, RDKit {version}"
    )
    _print_scores(console, scores, data_rows, data_name)
    measured: dict[str, float] = {}
    if physics:
        against = reference or (train if train and Path(train).suffix.lower() not in TRAINING_SMILES else None)
        others = None if against is None else _some(read_molecules(against), reference_size)
        measured = physics_figures(physics, molecules, others)
        print_figures(console, measured, title="physics")
    if csv_file is not None:
        write_rows(csv_file, *_verdicts(molecules, scores, train_smiles))
        console.print(f"table: {csv_file}", soft_wrap=True)
    figures = {
        "file": file,
        "rdkit_version": version,
        "scores": {name: result.figures() for name, result in scores.items()},
        "physics": measured,
        "novelty_against": train,
        "data": {"name": data_name, "scores": {name: result.figures() for name, result in data_rows.items()}},
    }
    write_json(figures, json_file)


def _protocols(names: list[str], time_limit: float, workers: int) -> dict[str, Protocol]:
    chosen: dict[str, Protocol] = {}
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f'unknown protocol "{name}"', remedy=nearest(name, PROTOCOLS))
        chosen[name] = PROTOCOLS[name]
        if name == "rdkit":
            chosen[name] = partial(rdkit_protocol, time_limit_s=time_limit, workers=workers)
    return chosen


def _training(
    console: Console, train: str | None, chosen: dict[str, Protocol]
) -> tuple[dict[str, set[str]], dict[str, Score]]:
    """SMILES of the training molecules by protocol, and their scores where there are molecules and not SMILES alone."""
    if train is None:
        return {}, {}
    if Path(train).suffix.lower() not in TRAINING_SMILES:
        return _data_rows(console, train, chosen, None)
    smiles = {line.text for line in read_smiles_file(train)}
    return dict.fromkeys(chosen, smiles), {}


def _data_rows(
    console: Console, data: str, chosen: dict[str, Protocol], size: int | None
) -> tuple[dict[str, set[str]], dict[str, Score]]:
    """Data by the same code: SMILES and score by protocol."""
    molecules = _some(read_molecules(data), size)
    rows: dict[str, Score] = {}
    for name, run in chosen.items():
        if name == "graph" and molecules.orders is None:
            text = f"{escape(data)} has no bonds: no data row and no novelty by the protocol graph"
            console.print(text, soft_wrap=True)
            continue
        rows[name] = score(molecules, run)
    return {name: {text for text in row.verdicts.smiles if text} for name, row in rows.items()}, rows


def _some(molecules: Molecules, size: int | None) -> Molecules:
    """At most so many of the molecules, drawn at random (seed 0)."""
    if size is None or size >= len(molecules):
        return molecules
    return molecules.subset(np.sort(np.random.default_rng(0).permutation(len(molecules))[:size]))


def _print_scores(console: Console, scores: dict[str, Score], data: dict[str, Score], data_name: str | None) -> None:
    """A table for each protocol: the molecules beside the data, shares in percent with one standard error."""
    if data:
        console.print(f"data: {escape(str(data_name))}", soft_wrap=True)
    for name, result in scores.items():
        columns = [result, *([data[name]] if name in data else [])]
        heads = [f"{result.molecules} molecules", f"{data[name].molecules} of the data" if name in data else ""]
        table = Table(box=None, pad_edge=False)
        table.add_column(f"protocol {name}, %", no_wrap=True)
        for head, _ in zip(heads, columns, strict=False):
            table.add_column(escape(head), justify="right", no_wrap=True)
        for key in result.shares:
            table.add_row(key.replace("_", " "), *(_percent(column, key) for column in columns))
        for key, value in result.extra.items():
            label, text, unit = named_figure(key, value)
            table.add_row(escape(label), f"{text} {unit}".rstrip())
        console.print()
        console.print(table)
        listed = ", ".join(f"{count} × {kind}" for kind, count in list(result.failures.items())[:FAULTS_SHOWN])
        if listed:
            console.print(f"what was wrong: {escape(listed)}", soft_wrap=True)


def _percent(result: Score, key: str) -> str:
    share = result.shares.get(key)
    if share is None or math.isnan(share.value):
        return "-"
    return f"{100 * share.value:.2f} ± {100 * share.error:.2f}"


def _verdicts(
    molecules: Molecules, scores: dict[str, Score], train_smiles: dict[str, set[str]]
) -> tuple[list[str], list[list[object]]]:
    """Names of columns, and for each molecule what the file says of it, then the verdict of each protocol."""
    columns = ["stable_atoms", "stable", "valid", "connected", "first_of_its_kind", "novel", "smiles", "reason"]
    own = [f"{name}_{column}" for name in scores for column in columns]
    tags = dict.fromkeys(name for properties in molecules.properties for name in properties if name not in own)
    seen: dict[str, set[str]] = {name: set() for name in scores}
    rows: list[list[object]] = []
    for i in range(len(molecules)):
        properties = molecules.properties[i] if molecules.properties else {}
        row: list[object] = [i, len(molecules.numbers(i)), *(properties.get(tag, "") for tag in tags)]
        for name, result in scores.items():
            verdicts, known = result.verdicts, train_smiles.get(name)
            smiles = verdicts.smiles[i]
            row += [verdicts.stable_atoms[i]]
            row += [int(verdicts.stable[i]), int(verdicts.valid[i]), int(verdicts.connected[i])]
            row += [int(bool(smiles) and smiles not in seen[name])]
            row += ["" if known is None or not smiles else int(smiles not in known), smiles, verdicts.reasons[i]]
            seen[name].add(smiles)
        rows.append(row)
    return ["index", "atoms", *tags, *own], rows
