"""Splits that an npz file brings along: row numbers, or one word per structure."""

from __future__ import annotations

import re

import numpy as np

from geomol.data.npz_file import NpzFile
from geomol.data.splits import check_split
from geomol.errors import InputError

_ROWS = re.compile(r"(train|valid|val|test)([_-]?\w*)$")
_WORDS = {"split": "", "config_type": "config_type/", "data_dir": "data_dir/"}  # array -> prefix of the split names


def read_splits(file: NpzFile, frames: int) -> dict[str, np.ndarray]:
    """All splits of a file by name, each an int64 array of row numbers.

    Raises:
        InputError: a split array of the wrong shape.
        ConfigError: row numbers outside the set, or given twice.
    """
    splits: dict[str, np.ndarray] = {}
    for key, header in file.headers.items():
        if _ROWS.match(key) and header.dtype.kind in "iu":
            rows = file.read(key)
            check_split(rows, frames, where=f"{file.path}, {key}")
            splits[key] = rows.astype(np.int64)
    for key, prefix in _WORDS.items():
        if key not in file.headers:
            continue
        words = file.read(key)
        if words.shape != (frames,) or words.dtype.kind not in "SUiu":
            raise InputError(
                f"{key} has the wrong shape", where=str(file.path), expected=f"({frames},) words", got=str(words.shape)
            )
        for value in np.unique(words):
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            splits[prefix + text] = np.flatnonzero(words == value)
    return splits
