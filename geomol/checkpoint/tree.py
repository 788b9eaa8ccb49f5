"""Nested Python values as JSON plus tensors, exactly: what goes in comes out, types and bits included.

JSON keeps None, booleans, strings, finite floats (shortest repr, so every bit), integers below 2**63 and lists. The
rest is an object with one key that says what it is:

    {"dict": [[key, value], ...]}   in order, keys of any simple type     {"tuple": [...]}
    {"tensor": name}                                                      {"int": hexadecimal text}
    {"float": "nan" | "inf" | "-inf"}                                     {"bytes": hexadecimal text}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from geomol.errors import CheckpointError

MAX_DEPTH = 64
MAX_NAME = 120  # characters of a tensor name; the header is capped
INT_LIMIT = 2**63


def encode(state: object, *, reserved: str) -> tuple[object, dict[str, Tensor]]:
    """Split `state` into a JSON-able tree and its tensors, named after their paths (but never `reserved`).

    Raises:
        CheckpointError: a value of another kind, named by its path, or nesting beyond 64 levels.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, (), tensors, reserved)
    return tree, tensors


def decode(tree: object, tensors: Mapping[str, Tensor], where: str) -> object:
    """The inverse of `encode`.

    Raises:
        CheckpointError: a tree that `encode` cannot have made, or that names a missing tensor.
    """
    try:
        return _decode(tree, tensors)
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"not a training state ({error!r})", where=where) from error


def _encode(value: object, path: tuple[str, ...], tensors: dict[str, Tensor], reserved: str) -> object:
    if len(path) > MAX_DEPTH:
        raise CheckpointError(f"state nested deeper than {MAX_DEPTH} levels", where=".".join(path[:3]))
    if isinstance(value, Tensor):
        name = _free_name(path, tensors, reserved)
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_key(key, path), _encode(value[key], (*path, str(key)), tensors, reserved)] for key in value]}
    if isinstance(value, list | tuple):
        items = [_encode(item, (*path, str(index)), tensors, reserved) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    return _simple(value, path)


def _simple(value: object, path: tuple[str, ...]) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value) if -INT_LIMIT <= value < INT_LIMIT else {"int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    raise CheckpointError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot be stored",
        where=".".join(path) or "state",
        expected="tensors, numbers, strings, bytes, None, and lists, tuples and dicts of them",
        remedy="convert it, arrays with torch.from_numpy",
    )


def _key(key: object, path: tuple[str, ...]) -> object:
    """Keys are of simple types or tuples of them, and keep their type: 1 and "1" differ."""
    if isinstance(key, tuple):
        return {"tuple": [_key(part, path) for part in key]}
    return _simple(key, (*path, str(key)))


def _free_name(path: tuple[str, ...], tensors: dict[str, Tensor], reserved: str) -> str:
    stem = ".".join(path).encode("ascii", "backslashreplace").decode()[:MAX_NAME] or "tensor"
    name, number = stem, 1
    while name in tensors or name in (reserved, "__metadata__"):
        number += 1
        name = f"{stem}#{number}"
    return name


def _decode(tree: object, tensors: Mapping[str, Tensor]) -> object:
    if isinstance(tree, list):
        return [_decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_decode(key, tensors): _decode(value, tensors) for key, value in content}
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    return _SPECIAL[kind](content)


_SPECIAL: dict[str, Callable[[str], object]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "bytes": bytes.fromhex,
}
