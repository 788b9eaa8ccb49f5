"""Training state on disk, in two generations, so that a kill at any moment and a damaged file lose one save at most."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from geomol.checkpoint.atomic import keep_as, remove_abandoned, staged, sync_folder
from geomol.checkpoint.header import damaged, parse_json
from geomol.checkpoint.manifest import FormatVersionError
from geomol.checkpoint.tensors import pack_tensors, read_tensors
from geomol.checkpoint.tree import decode, encode
from geomol.errors import CheckpointError, GeomolWarning, SecurityError

STATE_FILE = "state.safetensors"
PREVIOUS_FILE = "state.prev.safetensors"
STATE_FORMAT = "geomol.state"
TREE = "state.json"


def save_state(folder: str | os.PathLike[str], state: Mapping[str, object]) -> None:
    """Make `state` the newest generation in `folder`; the one before it is kept as `state.prev.safetensors`.

    Order: new file complete and synced under a temporary name; the newest good one becomes the previous one (a second
    name first, so that it never disappears); the new one takes its name. A newest file that does not verify is never
    made the previous one. At every instant one complete good generation has its name. One process at a time may write
    to a folder.

    Args:
        folder: made if it is missing.
        state: nested dicts (keys keep their types), lists and tuples of tensors of any type and shape, numbers of any
            size (NaN and infinity included), strings, bytes and None. Tensors are stored without their device and
            gradient flag.

    Raises:
        CheckpointError: a value of another type, named by its path.
        OutputError: the disk refused; the last good generation is intact.
    """
    current, previous = Path(folder) / STATE_FILE, Path(folder) / PREVIOUS_FILE
    tree, tensors = encode(dict(state), reserved=TREE)
    text = json.dumps(tree, allow_nan=False, separators=(",", ":")).encode("ascii")
    tensors[TREE] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    data = pack_tensors(tensors, {"format": STATE_FORMAT}, where=str(current), allow_nonfinite=True)
    with staged(current, data) as temp:
        remove_abandoned(previous)
        if _is_good(current):
            keep_as(current, previous)
        os.replace(temp, current)
        sync_folder(current.parent)


def load_state(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The newest valid generation in `folder` (tensors on the CPU), or None where nothing was ever saved.

    A newest file that is damaged or missing is reported by a `GeomolWarning`, and the previous one is used.

    Raises:
        CheckpointError: no generation is valid, or the newest is intact but of another format version.
    """
    current, previous = Path(folder) / STATE_FILE, Path(folder) / PREVIOUS_FILE
    if not os.path.lexists(current) and not os.path.lexists(previous):
        return None
    try:
        return _read(current)
    except FormatVersionError:
        raise
    except (CheckpointError, SecurityError) as error:
        fault = error
    try:
        state = _read(previous)
    except FormatVersionError:
        raise
    except (CheckpointError, SecurityError) as error:
        raise CheckpointError(
            f"no valid training state: {fault}; {error}", remedy="start again, or restore the folder from a copy"
        ) from fault
    warnings.warn(f"{fault}; the previous state, {previous}, is used instead", GeomolWarning, stacklevel=2)
    return state


def _read(path: Path) -> dict[str, Any]:
    tensors, manifest = read_tensors(path, allow_nonfinite=True)
    if manifest.get("format") != STATE_FORMAT or TREE not in tensors:
        raise CheckpointError("not a training state", where=str(path), got=str(manifest.get("format")))
    text = tensors.pop(TREE)
    if text.dtype is not torch.uint8:
        raise damaged(f'tensor "{TREE}" is not text', str(path))
    state = decode(parse_json(text.numpy().tobytes(), str(path)), tensors, str(path))
    if not isinstance(state, dict):
        raise damaged("the state is not a dict", str(path))
    return state


def _is_good(path: Path) -> bool:
    try:
        read_tensors(path, allow_nonfinite=True)
    except FormatVersionError:
        return True  # intact, written by another version
    except (CheckpointError, SecurityError):
        return False
    return True
