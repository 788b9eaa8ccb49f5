"""The manifest of a file: JSON, sealed by its own hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from geomol.checkpoint.header import damaged, parse_json
from geomol.errors import CheckpointError

FORMAT_VERSION = 1

_SEAL_START, _SEAL_MIDDLE, _SEAL_END = '{"sha256":"', '","manifest":', "}"
_DIGEST_LENGTH = 64


class FormatVersionError(CheckpointError):
    """An intact file of a format that this version of geomol does not read."""


def seal(manifest: Mapping[str, object], where: str) -> str:
    """`{"sha256": ..., "manifest": ...}` with sorted keys; equal manifests give equal text.

    Numpy and torch scalars and arrays become numbers and lists, paths become strings, keys become strings; NaN and
    infinity, which JSON lacks, become {"float": "nan"} and the like.

    Raises:
        CheckpointError: a value that is not JSON-able.
    """
    text = json.dumps(_to_json(dict(manifest), "manifest", where), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    return f"{_SEAL_START}{digest}{_SEAL_MIDDLE}{text}{_SEAL_END}"


def unseal(sealed: str, where: str) -> dict[str, Any]:
    """The manifest in a sealed text.

    Raises:
        CheckpointError: the text does not match its hash.
        FormatVersionError: intact, but of another format version.
    """
    text = sealed[len(_SEAL_START) + _DIGEST_LENGTH + len(_SEAL_MIDDLE) : -len(_SEAL_END)]
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if sealed != f"{_SEAL_START}{digest}{_SEAL_MIDDLE}{text}{_SEAL_END}":
        raise damaged("the manifest does not match its checksum", where)
    try:
        manifest = _from_json(parse_json(text, where))
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged("the manifest cannot be understood", where) from error
    if not isinstance(manifest, dict):
        raise damaged("the manifest is not an object", where)
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        is_newer = type(version) is int and version > FORMAT_VERSION
        raise FormatVersionError(
            f"written in {'a newer' if is_newer else 'an unknown'} format",
            where=where,
            expected=f"format version {FORMAT_VERSION}",
            got=str(version)[:20],
            remedy="update geomol" if is_newer else "save it again with this version of geomol",
        )
    return manifest


def _to_json(value: object, path: str, where: str) -> object:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _to_json(item, f"{path}.{key}", where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{path}[{index}]", where) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"{path} is a {type(value).__qualname__}", where=where, expected="a value that JSON has")


def _from_json(value: object) -> object:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
        return float(value["float"])
    return {key: _from_json(item) for key, item in value.items()}
