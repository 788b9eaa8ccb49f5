"""The properties of molecules by column, with names and units as people write them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

EXACT_DIGITS = 15


def columns(
    size: int, sources: Sequence[Sequence[Mapping[str, float | str]]], moved: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """All properties by column, with label and unit.

    Args:
        size: number of molecules.
        sources: properties of each molecule; of two sources with one name the later holds. May be empty.
        moved: how far relaxation moved the atoms, Å; shown as "rmsd" unless a source has that.

    A column of nothing but numbers is numeric: NaN becomes null, infinities the strings "Infinity" and "-Infinity".
    """
    rows: list[dict[str, float | str]] = [{} for _ in range(size)]
    for source in sources:
        for row, entries in zip(rows, source, strict=False):
            row.update(entries)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if "rmsd_A" not in names and any(math.isfinite(value) for value in moved):
        names.append("rmsd_A")
        for row, value in zip(rows, moved, strict=True):
            row["rmsd_A"] = value
    found = []
    for name in names:
        values = [row.get(name) for row in rows]
        numeric = [_as_number(value) for value in values]
        is_numeric = all(number is not None for number in numeric)
        label, unit = label_of(name)
        shown = [_number(number) for number in numeric] if is_numeric else [_text(value) for value in values]
        found.append({"name": name, "label": label, "unit": unit, "numeric": is_numeric, "values": shown})
    return found


def _as_number(value: float | str | None) -> float | None:
    """NaN for nothing, None for text; digits beyond what a float holds are a name, such as a seed."""
    if value is None or value == "":
        return math.nan
    if isinstance(value, str) and len(value) > EXACT_DIGITS and value.isdigit():
        return None
    try:
        return None if isinstance(value, bool) else float(value)
    except ValueError:
        return None


def _number(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _text(value: float | str | None) -> str | None:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else None if value is None else str(value)


_UNITS = {
    "_kcal_per_mol": "kcal/mol", "_eV_per_atom": "eV/atom", "_eV_per_A": "eV/Å", "_meV": "meV", "_eV": "eV",
    "_A": "Å", "_deg": "°", "_D": "D", "_s": "s",
}  # fmt: skip


_ACRONYMS = {"rmsd": "RMSD", "homo": "HOMO", "lumo": "LUMO", "mmff": "MMFF", "xtb": "xTB"}


def label_of(name: str) -> tuple[str, str]:
    """A name as people write it, and its unit: "strain_kcal_per_mol" is strain in kcal/mol."""
    unit = ""
    for ending, found in _UNITS.items():
        if name.endswith(ending) and len(name) > len(ending):
            name, unit = name[: -len(ending)], found
            break
    return " ".join(_ACRONYMS.get(word, word) for word in name.split("_")), unit
