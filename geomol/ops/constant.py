"""Whether operators may take weights for constants: where nobody can ask for derivatives by them.

PyTorch leaves out what is not asked for, operator by operator; an operator of ours that gives all derivatives in one
pass is told by this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_ARE_CONSTANT = ContextVar("weights are constant", default=False)


@contextmanager
def constant_weights(are_constant: bool = True) -> Iterator[None]:
    """Operators called inside a `with` block have no derivatives by weights."""
    token = _ARE_CONSTANT.set(are_constant)
    try:
        yield
    finally:
        _ARE_CONSTANT.reset(token)


def weights_are_constant() -> bool:
    """Whether nobody can ask for derivatives by weights, nor for more than first derivatives by anything else."""
    return _ARE_CONSTANT.get()


def as_weight(weight: Tensor) -> Tensor:
    """A weight as an operator takes it."""
    return weight.detach() if _ARE_CONSTANT.get() else weight
