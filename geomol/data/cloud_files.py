"""Point clouds in a file of our own, and the cache of sets that take long to read or to make."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from geomol.data.clouds import Clouds
from geomol.data.folders import cache_folder
from geomol.data.npz_file import NpzFile
from geomol.data.splits import check_split
from geomol.errors import InputError, OutputError

_NAMES = ("names", "class_names", "part_names")
_ARRAYS = ("pos", "ptr", "normals", "label", "part")


def write_clouds(path: str | Path, clouds: Clouds) -> Path:
    """Write a set as npz; the file gets its name when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    target = Path(path)
    arrays = {key: getattr(clouds, key) for key in _ARRAYS if getattr(clouds, key) is not None}
    arrays |= {f"split/{name}": rows for name, rows in clouds.splits.items()}
    for key in _NAMES:
        if getattr(clouds, key):
            arrays[key] = np.array(getattr(clouds, key))
    if clouds.class_parts:
        table = np.zeros((len(clouds.class_parts), len(clouds.part_names)), dtype=np.bool_)
        for row, parts in enumerate(clouds.class_parts):
            table[row, list(parts)] = True
        arrays["class_parts"] = table
    arrays["name"], arrays["source"] = np.array(clouds.name), np.array(clouds.source)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.npz")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **arrays)
        temporary.replace(target)
    except OSError as error:
        raise OutputError("cannot write the clouds", where=str(target), got=error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def read_clouds(path: str | Path) -> Clouds:
    """A set that `write_clouds` wrote; checked like one from anywhere.

    Raises:
        InputError: not such a file, or contents that cannot be. SecurityError: a file that could do harm.
        ConfigError: splits beyond the set.
    """
    file = NpzFile(path)
    missing = [key for key in ("pos", "ptr", "name", "source") if key not in file.headers]
    if missing:
        raise InputError("not a file of point clouds", where=str(path), expected=f'an array "{missing[0]}"')
    arrays = {key: file.read(key) for key in file.headers}
    table = arrays.get("class_parts")
    clouds = Clouds(
        name=str(arrays["name"]),
        source=str(arrays["source"]),
        **{key: arrays.get(key) for key in _ARRAYS},  # type: ignore[arg-type]
        **{key: tuple(arrays.get(key, np.array([], dtype=str)).tolist()) for key in _NAMES},  # type: ignore[arg-type]
        class_parts=() if table is None else tuple(tuple(np.flatnonzero(row).tolist()) for row in table),
        splits={key.removeprefix("split/"): rows for key, rows in arrays.items() if key.startswith("split/")},
    )
    for name, rows in clouds.splits.items():
        check_split(rows, len(clouds), where=f"{path}, {name}")
    return clouds


def cached_clouds(key: str, make: Callable[[], Clouds]) -> Clouds:
    """The set of that key from the user's cache, or made now and kept there."""
    path = cache_folder() / "clouds" / f"{key}.npz"
    if path.is_file():
        return read_clouds(path)
    clouds = make()
    write_clouds(path, clouds)
    return clouds
