"""A last look at what code that reads memory by address is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def check_shapes(given: Mapping[str, Tensor | None], shapes: Mapping[str, Sequence[int]]) -> None:
    """Of `given`, "a" and "b" are senders and receivers of edges; None is not looked at.

    Raises:
        ValueError: a tensor of another shape than it must have, or rows that are no integers.
    """
    for name, value in given.items():
        if value is None:
            continue
        if tuple(value.shape) != tuple(shapes[name]):
            raise ValueError(f"{name} of shape {tuple(value.shape)}, expected {tuple(shapes[name])}")
        if name in ("a", "b") and value.is_floating_point():
            raise ValueError(f"{name} of type {value.dtype}, expected row numbers")
