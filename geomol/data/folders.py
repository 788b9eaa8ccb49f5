"""Where datasets are looked for: `$GEOMOL_DATA`, the user's cache, then `data/` here and in the checkout."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "GEOMOL_DATA"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/geomol`, or `~/.cache/geomol`; not created here."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "geomol"


def data_folders() -> list[tuple[str, Path]]:
    """(what it is, folder) in the order in which they are searched; folders that do not exist are left out."""
    stated = os.environ.get(DATA_VARIABLE)
    checkout = Path(__file__).resolve().parents[2]
    folders = [
        *([(f"${DATA_VARIABLE}", Path(stated))] if stated else []),
        ("cache", cache_folder()),
        ("bundled", Path.cwd() / "data"),
    ]
    if (checkout / "pyproject.toml").is_file() and checkout != Path.cwd():
        folders.append(("bundled", checkout / "data"))
    return [(kind, folder) for kind, folder in folders if folder.is_dir()]
