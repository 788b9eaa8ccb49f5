"""Muon: momentum made orthogonal, for the matrices among the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)  # a s + b s³ + c s⁵: steep at 0, and near 1 again and again for s ≤ 1
_ITERATIONS = 5
_RMS = 0.2  # of an entry of the update, as Adam's usually are


class Muon(torch.optim.Optimizer):
    """Steps along the nearest orthogonal matrix to the momentum, so that all its directions move alike.

        M ← μ M + (1 − μ) G,   W ← (1 − λη) W − 0.2 η √(max(n, m)) NS₅((1 − μ) G + μ M)

    with the gradient G, and NS₅ five Newton–Schulz iterations, which bring every singular value near 1.

    Sources: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
    (kellerjordan.github.io/posts/muon); the factor 0.2 √max, by which learning rates of Adam fit, Liu et al., "Muon is
    Scalable for LLM Training", 2025 (arXiv:2502.16982), eq. 4. Unlike `torch.optim.Muon` it takes all matrices of one
    shape at once, wide and tall, and in their own precision: networks on molecules have tens of small ones, whose steps
    one by one in bfloat16 take longer.

    Args:
        matrices: weights of two dimensions or more; those beyond the first are taken together.
        lr: learning rate η.
        weight_decay: λ, decoupled.
        momentum: μ.

    Raises:
        ValueError: a parameter of fewer than two dimensions.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, *, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            if any(p.dim() < 2 for p in group["params"]):
                raise ValueError("Muon is for matrices: leave vectors and scalars to Adam")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, int, torch.dtype, torch.device], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    rows, columns = len(p), p.numel() // len(p)
                    key = min(rows, columns), max(rows, columns), p.dtype, p.device
                    alike.setdefault(key, []).append(p)
            for weights in alike.values():
                self._update(weights, group)

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape, up to transposition."""
        for p in weights:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        gradients: list[Tensor] = [p.grad for p in weights]  # type: ignore[misc]
        moments = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
        ahead = [u.flatten(1) for u in torch._foreach_lerp(gradients, moments, group["momentum"])]
        tall = [u.shape[0] > u.shape[1] for u in ahead]
        found = orthogonalised(torch.stack([u.T if t else u for u, t in zip(ahead, tall, strict=True)]))
        updates = [(u.T if t else u).reshape(p.shape) for u, t, p in zip(found, tall, weights, strict=True)]
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-group["lr"] * _RMS * math.sqrt(found.shape[2]))


def orthogonalised(x: Float[Tensor, "B n m"]) -> Float[Tensor, "B n m"]:
    """Each matrix U S Vᵀ with its singular values moved near 1, from 0.68 to 1.21, by Newton–Schulz iterations; n ≤ m.

    Those below 0.0015 of the matrix's norm are left smaller, and a matrix of zeros stays one.
    """
    a, b, c = _QUINTIC
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def matrices_of(model: nn.Module) -> list[Tensor]:
    """Trainable weights for `Muon`: of two dimensions or more, unless they are a single row or column, or a table that
    is looked up rather than multiplied.
    """
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad and p not in tables]
    return [p for p in trained if p.dim() >= 2 and min(len(p), p.numel() // len(p)) > 1]
