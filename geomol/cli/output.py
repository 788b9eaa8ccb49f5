"""What a command prints: tables for people, and the same figures, unrounded, as JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import ase.units
import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geomol.checkpoint.atomic import write_atomically
from geomol.errors import OutputError

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the figures, unrounded, with units in the keys ('-': stdout)."),
]

# Unit at the end of a key, unit shown, factor to it. Energies and forces below one are shown in meV.
_UNITS: dict[str, tuple[str, float]] = {
    "eV_per_A3": ("GPa", 1 / ase.units.GPa),
    "eV_per_A": ("eV/Å", 1.0),
    "eV_per_atom": ("eV/atom", 1.0),
    "eV_per_atom_per_ns": ("eV/atom/ns", 1.0),
    "meV_per_atom_per_ns": ("meV/atom/ns", 1.0),
    "eV": ("eV", 1.0),
    "ns_per_day": ("ns/day", 1.0),
    "A3": ("Å³", 1.0),
    "A": ("Å", 1.0),
    "GPa": ("GPa", 1.0),
    "K": ("K", 1.0),
    "fs": ("fs", 1.0),
    "ps": ("ps", 1.0),
    "ns": ("ns", 1.0),
    "ms": ("ms", 1.0),
    "s": ("s", 1.0),
}
_KEY = re.compile(
    rf"(?P<name>.*?)_(?P<unit>{'|'.join(sorted(_UNITS, key=len, reverse=True))})(?P<statistic>_mean|_std|_mean_95)?$"
)


def console_for(json_target: str | None) -> Console:
    """Where text for people goes: standard output, or standard error when the JSON takes standard output."""
    return Console(stderr=json_target == "-", highlight=False)


def named_figure(key: str, value: object) -> tuple[str, str, str]:
    """Name, rounded value and unit of a figure: force_mae_eV_per_A, 0.0071 is force mae, 7.1, meV/Å."""
    if not isinstance(value, float):
        return key.replace("_", " "), str(value), ""
    match = _KEY.fullmatch(key)
    if match is None:
        return key.replace("_", " "), f"{value:.0f}" if value.is_integer() else f"{value:.4g}", ""
    unit, factor = _UNITS[match["unit"]]
    if unit.startswith("eV") and 0 < abs(value) < 1:
        unit, factor = f"m{unit}", 1e3
    digits = 8 if unit == "eV" else 4
    name = f"{match['name']}{match['statistic'] or ''}".replace("_", " ")
    return name.replace("mean 95", "95 % ±"), f"{value * factor:.{digits}g}", unit


def flat(figures: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Entries of a nested mapping, with their keys joined."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", value


def print_figures(console: Console, figures: Mapping[str, object], *, title: str | None = None) -> None:
    """Print figures, one a line, in the units people read (meV, meV/Å, GPa)."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in flat(figures):
        name, text, unit = named_figure(key, value)
        table.add_row(escape(name), escape(f"{text} {unit}".rstrip()))
    if title is not None:
        # not the table's own title, which would be broken at the width of the table
        console.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    console.print(table)


def plain(value: Any) -> Any:
    """The value as JSON has it: arrays as lists, paths as text, and null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(figures: Mapping[str, object], target: str | None) -> None:
    """Write figures as JSON to a file or, for "-", to standard output; nothing for None.

    Raises:
        OutputError: the file cannot be written.
    """
    if target is None:
        return
    text = json.dumps(plain(figures), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the JSON file cannot be written: {error.strerror}", where=target) from error


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table as .csv; numbers as they are, to the last digit.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, text.getvalue().encode())
