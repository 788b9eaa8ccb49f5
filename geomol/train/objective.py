"""What a step minimises: the task's loss, on turned copies where asked, and what modules add to it."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.geometry import random_rotations
from geomol.models import Penalised
from geomol.train.config import TrainConfig
from geomol.train.tasks import Part, Task, seeded

GRADNORM_POWER = 1.5
GRADNORM_RATE = 0.025
LEAST_WEIGHT = 1e-3  # of a term, before both are brought to sum 2
TINY = 1e-30  # keeps ratios of vanishing losses finite


def random_turns(num: int, group: str, generator: torch.Generator) -> Float[Tensor, "{num} 3 3"]:
    """Uniform elements of SO(3), or of O(3): a rotation, mirrored or not with equal chance."""
    turns = random_rotations(num, generator=generator)
    if group == "O(3)":
        turns = turns * (1 - 2 * torch.randint(2, (num, 1, 1), generator=generator))
    return turns


class Objective:
    """Task loss, with rotated data, with the softly equivariant term of REMUL, or with neither.

        L = α · loss(f(x), y) + β · loss(f(g x), g y),   g random for each structure and step

    Source: Elhag et al. 2024 (arXiv:2410.17878), eqs. 4-6. β is constant, grows linearly over the schedule, or both
    weights follow GradNorm (Chen et al., arXiv:1711.02257): gradient norms at the last weight matrix are drawn towards
    their mean times (relative inverse training rate)^1.5, the weights kept positive with sum 2. What modules add of
    their own (`penalty`) is that of the last forward pass and enters with weight 1.
    """

    def __init__(self, model: nn.Module, task: Task, train: Part, config: TrainConfig) -> None:
        self.model, self.task, self.train, self.config = model, task, train, config
        self.weights = [1.0, config.remul.weight]
        self.first_losses: list[float] = []
        self.shared: Tensor | None = None

    def __call__(self, index: Tensor, step: int, progress: float) -> Float[Tensor, ""]:
        """The loss of one step, differentiable."""
        run, remul = self.config.run, self.config.remul
        turns = random_turns(len(index), run.rotate_group, seeded(run.seed, 2, step)) if run.rotate else None
        loss = self.task.loss(self.model, *self.train.batch(index, turns))
        if remul.weight > 0:
            turns = random_turns(len(index), remul.group, seeded(run.seed, 3, step))
            soft = self.task.loss(self.model, *self.train.batch(index, turns))
            loss = self._combine(loss, soft, progress)
        for module in self.model.modules():
            extra = module.penalty() if isinstance(module, Penalised) else None
            if extra is not None:
                loss = loss + extra.to(loss.dtype)
        return loss

    def _combine(self, loss: Tensor, soft: Tensor, progress: float) -> Tensor:
        remul = self.config.remul
        if remul.schedule == "linear":
            return loss + remul.weight * progress * soft
        if remul.schedule == "gradnorm":
            self._balance([loss, soft])
        return self.weights[0] * loss + self.weights[1] * soft

    def _balance(self, losses: list[Tensor]) -> None:
        """One GradNorm update of the two weights; none where a loss is not finite, which the trainer reports."""
        values = [float(loss.detach()) for loss in losses]
        if not all(map(math.isfinite, values)):
            return
        shared = self.shared = _last_matrix(self.model, losses[0]) if self.shared is None else self.shared
        norms = [float(torch.autograd.grad(loss, shared, retain_graph=True)[0].norm()) for loss in losses]
        self.first_losses = self.first_losses or values
        rates = [value / max(first, TINY) for value, first in zip(values, self.first_losses, strict=True)]
        weighted = [w * n for w, n in zip(self.weights, norms, strict=True)]
        mean_norm, mean_rate = sum(weighted) / 2, max(sum(rates) / 2, TINY)
        for k in range(2):
            target = mean_norm * (rates[k] / mean_rate) ** GRADNORM_POWER
            # derivative of |w_k n_k − target| with respect to w_k, the target held fixed
            slope = norms[k] * ((weighted[k] > target) - (weighted[k] < target))
            self.weights[k] = max(LEAST_WEIGHT, self.weights[k] - GRADNORM_RATE * slope)
        total = sum(self.weights)
        self.weights = [2 * w / total for w in self.weights]

    def state(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "first_losses": list(self.first_losses)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.weights, self.first_losses = list(state["weights"]), list(state["first_losses"])


def _last_matrix(model: nn.Module, loss: Tensor) -> Tensor:
    """The last weight matrix of the innermost backbone that the loss depends on (a last layer may have idle ones); of
    the whole model where that backbone is frozen, and the last weights of any shape where there are no matrices.
    """
    core = model
    while isinstance(inner := getattr(core, "backbone", None), nn.Module):
        core = inner
    trained = [p for p in core.parameters() if p.requires_grad] or [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    used = [p for p, gradient in zip(trained, gradients, strict=True) if gradient is not None]
    return ([p for p in used if p.dim() > 1] or used)[-1]
