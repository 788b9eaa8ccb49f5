"""Point clouds as text: one point a line, with or without normals and a label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geomol.errors import ConfigError, InputError

COLUMNS = {"x y z": 3, "x y z label": 4, "x y z nx ny nz": 6, "x y z nx ny nz label": 7}


def is_number(word: str) -> bool:
    """Whether Python reads it as one."""
    try:
        float(word)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class CloudText:
    """The points of one text file."""

    pos: np.ndarray  # (N, 3) float64
    normals: np.ndarray | None  # (N, 3) float64
    label: np.ndarray | None  # (N,) int64


def parse_cloud(content: str, columns: str, *, where: str, separator: str | None = None) -> CloudText:
    """The points of a text.

    Args:
        columns: what each line holds, a key of `COLUMNS`.
        separator: between the columns; white space unless given.

    Raises:
        InputError: an empty text, a wrong number of columns, something else than numbers, a label that is not whole;
            with the line. ConfigError: columns that are not known.
    """
    if columns not in COLUMNS:
        raise ConfigError(f'unknown columns "{columns}"', expected=" or ".join(f'"{key}"' for key in COLUMNS))
    width = COLUMNS[columns]
    lines = enumerate(content.splitlines(), start=1)
    rows = [(number, line.split(separator)) for number, line in lines if line.strip()]
    if not rows:
        raise InputError("the cloud is empty", where=where, expected="at least one point")
    wrong = next(((number, row) for number, row in rows if len(row) != width), None)
    if wrong is not None:
        raise InputError(
            "wrong number of columns",
            where=f"{where}, line {wrong[0]}",
            expected=f"{width} ({columns})",
            got=str(len(wrong[1])),
        )
    try:
        table = np.array([row for _, row in rows], dtype=np.float64)
    except ValueError:
        number, row = next((number, row) for number, row in rows if not all(map(is_number, row)))
        got = repr(" ".join(row)[:60])
        raise InputError("something else than numbers", where=f"{where}, line {number}", got=got) from None
    good = np.isfinite(table).all(axis=1)
    if not good.all():
        number, row = rows[int(np.argmin(good))]
        raise InputError("a value is not finite", where=f"{where}, line {number}", got=" ".join(row)[:80])
    label = table[:, -1] if "label" in columns else None
    if label is not None and not np.array_equal(label, np.round(label)):
        number, row = rows[int(np.argmax(label != np.round(label)))]
        raise InputError("a label is not a whole number", where=f"{where}, line {number}", got=row[-1])
    return CloudText(
        pos=table[:, :3],
        normals=table[:, 3:6] if "nx" in columns else None,
        label=None if label is None else label.astype(np.int64),
    )
