"""From three vectors to orthonormal axes, with a rule for vectors that do not span space."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomol.errors import ConfigError

THIRD = ("free", "cross", "determinant")

_ROUNDINGS = 10  # of one number each, that add up in the vectors of a network
_SHORT = 0.01  # vectors below this length count as that long: all of them may vanish by symmetry
_POWER = 2 / 3  # between rounding and vectors of a generic structure that happen to be almost collinear


def gram_schmidt(
    vectors: Float[Tensor, "*B 3 3"],
    *,
    third: str = "free",
    softness: float = 0.0,
    fallback: Float[Tensor, "*B 3 3"] | None = None,
    precision: torch.dtype | None = None,
) -> Float[Tensor, "*B 3 3"]:
    """Orthonormal columns from the columns of a matrix, one after the other: G(R M) = R G(M).

        u_k = w_k / |w_k|,    w_k = v_k − Σ_{l<k} (u_l·v_k) u_l

    The third is computed as ±u_1 × u_2 with the sign that makes it point along v_3, which is the same and exact however
    little v_3 leaves the plane of the others. The first two need a rule: where |w_k| < ε (|M| + 0.01), with
    ε = (10 · rounding of the numbers)^(2/3) (1.7e-10 in float64, 1.1e-4 in float32), what is left of v_k is taken for
    rounding, and u_k comes from the first column of `fallback` that is not too near u_1; plain Gram-Schmidt would give
    NaN or a random axis. The result is orthogonal and finite for every input, and smooth where the vectors span space;
    it jumps where they are coplanar, and turns ever faster towards collinear ones.

    With `softness` s there is no fallback: u_k = w_k / √(|w_k|² + s²). Columns shorten instead of jumping, and stay
    smooth and equivariant for every input; vectors should be long compared with s. (The transposed matrix takes the
    place of the inverse then, which keeps what is computed from it equivariant.)

    Source: Kaba et al., ICML 2023 (arXiv:2211.06489, section 4.2); Kim et al. (arXiv:2306.02866) for "determinant".

    Args:
        vectors: M, the three vectors as columns.
        third: "free": any orthogonal matrix, equivariant under O(3). "cross": u_3 = u_1 × u_2, a rotation, for which
            two vectors suffice. "determinant": the first column of the free result times its determinant, a rotation
            too, which jumps where the three vectors become coplanar. The latter two are equivariant under SO(3) only.
        softness: see above, in the unit of the vectors.
        fallback: orthonormal columns; None: the axes of the coordinates, which do not turn with the input.
        precision: number format in which the vectors were computed, where it is coarser than their own.

    Raises:
        ConfigError: unknown `third`.
    """
    if third not in THIRD:
        raise ConfigError("unknown rule for the third axis", expected=", ".join(THIRD), got=third)
    if fallback is None:
        fallback = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    axes: list[Tensor] = []
    for v in vectors.unbind(-1)[: 3 if softness and third != "cross" else 2]:
        w = _without(v, axes)
        squared = w.square().sum(-1, keepdim=True)
        if softness:
            axes.append(w / (squared + softness**2).sqrt())
            continue
        is_weak = squared < _rounding(vectors, precision) ** 2
        axes.append(torch.where(is_weak, _completion(fallback, axes, v), w / torch.where(is_weak, 1.0, squared).sqrt()))
    if len(axes) == 2:
        normal = torch.linalg.cross(axes[0], axes[1])
        below = (normal * vectors[..., 2]).sum(-1, keepdim=True) < 0
        axes.append(torch.where(below, -normal, normal) if third != "cross" else normal)
    orthogonal = torch.stack(axes, dim=-1)
    if third == "determinant":
        first = orthogonal[..., :1] * torch.linalg.det(orthogonal)[..., None, None]
        orthogonal = torch.cat([first, orthogonal[..., 1:]], dim=-1)
    return orthogonal


@torch.no_grad()
def spanned(vectors: Float[Tensor, "*B 3 3"], precision: torch.dtype | None = None) -> Bool[Tensor, "*B 2"]:
    """Which of the first two axes the vectors give by themselves, without the fallback of `gram_schmidt`."""
    threshold = _rounding(vectors, precision)[..., 0]
    first, second, _ = vectors.unbind(-1)
    length = torch.linalg.vector_norm(first, dim=-1)
    has_first = length >= threshold
    unit = torch.where(has_first[..., None], first / torch.where(has_first, length, 1.0)[..., None], 0.0)
    has_second = torch.linalg.vector_norm(_without(second, [unit]), dim=-1) >= threshold
    return torch.stack([has_first, has_second], dim=-1)


def _rounding(vectors: Tensor, precision: torch.dtype | None) -> Tensor:
    """Length of vectors that may be rounding, (*B, 1)."""
    epsilon: float = (_ROUNDINGS * torch.finfo(precision or vectors.dtype).eps) ** _POWER
    length: Tensor = epsilon * (torch.linalg.matrix_norm(vectors.detach())[..., None] + _SHORT)
    return length


def _without(v: Tensor, axes: list[Tensor]) -> Tensor:
    """The part of v that is perpendicular to the axes."""
    for u in axes:
        v = v - (u * v).sum(-1, keepdim=True) * u
    return v


def _completion(fallback: Tensor, axes: list[Tensor], like: Tensor) -> Tensor:
    """Unit vector perpendicular to the axes, from the first column of `fallback` that keeps half of its length.

    There is one, since the squared lengths that the three columns keep sum to at least 1. To take the longest would
    leave the choice to rounding where all are equal.
    """
    left = torch.stack([_without(c.expand_as(like), axes) for c in fallback.unbind(-1)], dim=-2)
    keeps_half = torch.linalg.vector_norm(left.detach(), dim=-1) > 0.5
    first = keeps_half.to(torch.int8).argmax(-1)  # the first of equal maxima
    chosen = left.gather(-2, first[..., None, None].expand(*first.shape, 1, 3))[..., 0, :]
    unit: Tensor = chosen / torch.linalg.vector_norm(chosen, dim=-1, keepdim=True)
    return unit
