"""The checker that the tests run the whole package under: array shapes and kinds as annotated, and nothing else.

Plain types are mypy's business, and many tests pass wrong ones on purpose, to see the error that a user gets. Installed
by `conftest.py` through jaxtyping's import hook, which hands over functions of the same signature.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from jaxtyping import AbstractArray, AnnotationError


def mentions_arrays(hint: Any) -> bool:
    """Whether an annotation says anything about the shape of an array."""
    if inspect.isclass(hint) and not typing.get_args(hint):
        return issubclass(hint, AbstractArray)
    return any(mentions_arrays(part) for part in typing.get_args(hint))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what the annotation says, as far as arrays are concerned."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple and isinstance(value, tuple) and Ellipsis not in parts:
        return len(value) == len(parts) and all(map(fits, value, parts))
    if inspect.isclass(hint) and origin is None:
        return isinstance(value, hint) if mentions_arrays(hint) or hint is types.NoneType else True
    return value is None if hint is None else True


def first_misfit(values: dict[str, Any], hints: dict[str, Any]) -> str | None:
    """Name of a value that does not fit. A size such as N+1 is compared once another array has said what N is."""
    waiting = dict(hints)
    while waiting:
        unknown = {}
        for name, hint in waiting.items():
            try:
                if not fits(values[name], hint):
                    return name
            except AnnotationError:
                unknown[name] = hint
        if len(unknown) == len(waiting):
            return None
        waiting = unknown
    return None


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its arguments and its result held to their annotations where these speak of arrays.

    Raises:
        TypeError: at call, an array of another shape or kind.
    """
    signature = inspect.signature(function)
    hints = {name: p.annotation for name, p in signature.parameters.items() if mentions_arrays(p.annotation)}
    returned = {"the result": signature.return_annotation} if mentions_arrays(signature.return_annotation) else {}

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        result = function(*args, **kwargs)
        values = {**bound.arguments, "the result": result} if returned else bound.arguments
        misfit = first_misfit(values, hints) or first_misfit(values, returned)
        if misfit is not None:
            raise TypeError(f"{misfit} does not fit {(hints | returned)[misfit]}")
        return result

    return checked if hints or returned else function
