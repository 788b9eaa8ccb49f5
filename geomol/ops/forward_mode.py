"""Derivatives in forward mode, which operators registered with PyTorch do not have: it would take them for zero."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.forward_ad import unpack_dual


def refuse_tangents(*values: Tensor) -> None:
    """Says so where any of the inputs of an operator carries a tangent.

    Raises:
        NotImplementedError: it does.
    """
    if any(unpack_dual(value).tangent is not None for value in values):  # type: ignore[no-untyped-call]
        raise NotImplementedError(
            "operators of geomol have no derivatives in forward mode (jvp, dual numbers); use reverse mode, twice "
            "where a Jacobian- or Hessian-vector product is wanted"
        )
