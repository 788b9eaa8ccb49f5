"""Compilers of PyTorch warn about PyTorch's own code; nobody here can act on that."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_deprecations() -> Iterator[None]:
    """No warnings about what will one day leave Python or PyTorch, for the length of a `with` block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
