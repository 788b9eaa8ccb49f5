"""`geomol data list | info | get | convert`: which data sets there are, what is in one, and how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from ase.data import chemical_symbols
from rich.table import Table

from geomol.cli.arguments import DataArgument, SkipBadOption, UnitsOption
from geomol.cli.output import JsonOption, console_for, print_figures, write_json
from geomol.cli.progress import progress_bar
from geomol.data import describe, get, list_datasets, load_structures, write_extxyz
from geomol.errors import ConfigError

data_app = typer.Typer(help="Data sets: what there is, what is in one, download, conversion.", no_args_is_help=True)

KeyOption = typer.Option(metavar="KEY", help="Name of this label in the file, where it is not the usual one.")


@data_app.command("list")
def list_command(json_file: JsonOption = None) -> None:
    """Name every data set that is here or can be downloaded."""
    entries = list_datasets()
    table = Table(box=None, pad_edge=False)
    for column in ("name", "where"):
        table.add_column(column)
    for entry in entries:
        here = "can be downloaded: geomol data get" if entry.path is None else f"{entry.kind}: {entry.path}"
        table.add_row(entry.name, here)
    console_for(json_file).print(table, soft_wrap=True)
    write_json({"datasets": [{"name": e.name, "kind": e.kind, "path": e.path} for e in entries]}, json_file)


@data_app.command("info")
def info_command(data: DataArgument, units: UnitsOption = None, json_file: JsonOption = None) -> None:
    """Say what a file or data set holds: structures, elements, labels, splits, source."""
    figures = describe(load_structures(data, units=units))
    elements = figures["elements"]
    assert isinstance(elements, list)
    shown = {**figures, "elements": " ".join(chemical_symbols[z] for z in elements)}
    print_figures(console_for(json_file), shown)
    write_json(figures, json_file)


@data_app.command("get")
def get_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See geomol data list.")],
    root: Annotated[Path | None, typer.Option("--root", help="Folder for data; the user's cache by default.")] = None,
) -> None:
    """Download a data set, verify it and unpack it; goes on with a download that was cut."""
    with progress_bar(name) as bar:

        def show(done: int, total: int | None) -> None:
            bar.update(done / total if total else 0.0, f"{done / 1e6:.1f} MB")

        path = get(name, root=root, progress=show)
    typer.echo(path)


@data_app.command("convert")
def convert_command(
    data: DataArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT.xyz", help="An extended xyz file in eV and Å.")],
    split: Annotated[str | None, typer.Option("--split", help="A part of the data.")] = None,
    units: UnitsOption = None,
    skip_bad: SkipBadOption = False,
    recover: Annotated[bool, typer.Option("--recover", help="Read what is complete of a cut file.")] = False,
    energy_key: Annotated[str | None, KeyOption] = None,
    forces_key: Annotated[str | None, KeyOption] = None,
    stress_key: Annotated[str | None, KeyOption] = None,
) -> None:
    """Convert structures and labels to extended xyz in eV, Å, eV/Å and eV/Å³."""
    if out.suffix not in (".xyz", ".extxyz"):
        raise ConfigError("unknown output format", where=str(out), expected="a name that ends in .xyz or .extxyz")
    structures = load_structures(
        data,
        units=units,
        skip_bad=skip_bad,
        recover=recover,
        energy_key=energy_key,
        forces_key=forces_key,
        stress_key=stress_key,
    )
    write_extxyz(out, structures if split is None else structures.split(split))
    typer.echo(out)
