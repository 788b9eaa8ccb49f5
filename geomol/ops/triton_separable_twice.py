"""The derivative of the derivatives of the separable convolution with the fused kernels, on a CUDA device.

With tangents (a dot) of x, A, r and W, Ṙ = ṙ W + r Ẇ, the product of the tangents with the derivatives of
T = Σ x·y·(A R) is S = Σ ẋ·y·(A R) + x·y·(Ȧ R) + x·y·(A Ṙ). These are the derivatives of S: of the terms with R, then,
in the same memory, of the one with Ṙ.

Import only where a kernel runs (`geomol.ops.backend.fused`): this needs Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geomol.ops.fused_cpu import NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT, NEED_X, NEED_Y
from geomol.ops.triton_separable import By, Pair, Term, project, to_factors


def grads_twice(
    tx: Tensor | None,
    t_angular: Tensor | None,
    t_radial: Tensor | None,
    t_weight: Tensor | None,
    x: Tensor,
    y: Tensor,
    angular: Tensor,
    radial: Tensor,
    weight: Tensor,
    pair: Pair,
    need: int,
) -> tuple[Tensor, ...]:
    """See `geomol.ops.fused`."""
    flags = (NEED_X, NEED_Y, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT)
    point = (x, y, angular, radial, weight)
    found = [torch.zeros_like(t) if need & flag else t.new_empty(0) for t, flag in zip(point, flags, strict=True)]
    by_x, by_y, *factors = (t if need & flag else None for t, flag in zip(found, flags, strict=True))
    by_angular, by_radial, by_weight = factors
    by_weight = None if by_weight is None else by_weight.flatten(1)
    receive, send = (pair[0], pair[4], pair[5]), (pair[3], pair[1], pair[2])
    flat = weight.flatten(1)
    mixed = radial.new_empty(len(radial), flat.shape[1])  # R, then Ṙ

    if tx is not None or t_angular is not None:
        torch.mm(radial, flat, out=mixed)
        terms = [] if tx is None else [Term(tx, angular)]
        if t_angular is not None:
            terms.append(Term(x, t_angular, by_angular=False))
            if by_x is not None:
                project(y, t_angular, mixed, *send, to=by_x)
        if by_y is not None:
            for term in terms:
                project(term.x, term.angular, mixed, *receive, to=by_y)
        to_factors(terms, y, mixed, radial, flat, pair, By(by_angular, by_radial, by_weight, add=True))

    if t_radial is not None or t_weight is not None:
        t_flat = None if t_weight is None else t_weight.flatten(1)
        if t_radial is not None:
            torch.mm(t_radial, flat, out=mixed)
        if t_flat is not None:
            mixed.addmm_(radial, t_flat, beta=int(t_radial is not None))
        if by_x is not None:
            project(y, angular, mixed, *send, to=by_x)
        if by_y is not None:
            project(x, angular, mixed, *receive, to=by_y)
        # only ṙ W depends on W, and only r Ẇ on r
        by = By(by_angular, None if t_flat is None else by_radial, None if t_radial is None else by_weight, add=True)
        to_factors([Term(x, angular)], y, mixed, t_radial, t_flat, pair, by)
    return tuple(found)
