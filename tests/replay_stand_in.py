"""Replayed training steps on a CPU: graphs that are computed anew at each replay in place of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geomol.compiled import CompiledPotential, ReplayedTraining
from geomol.compiled.form import Form
from geomol.compiled.replay_training import _gradients, _Recording, _repeatable, _room
from geomol.graph import Graph
from geomol.potential import Potential


class _Forward:
    """From the inputs where they lie to the outputs where they lie; what the derivatives need is kept."""

    def __init__(self, step: Callable[..., Any], recording: list[_Recording]) -> None:
        self.step, self.recording = step, recording
        self.kept: list[Tensor] = []

    def replay(self) -> None:
        found = self.recording[0]
        with torch.enable_grad(), _repeatable():
            self.kept = list(self.step(*found.inputs))
        for held, new in zip(found.outputs, self.kept, strict=True):
            held.copy_(new.detach())


class _Backward:
    def __init__(self, forward: _Forward, weights: list[Tensor]) -> None:
        self.forward, self.weights = forward, weights

    def replay(self) -> None:
        found = self.forward.recording[0]
        with _repeatable():
            new = _gradients(self.forward.kept, self.weights, found.cotangents)
        for held, value in zip(found.gradients, new, strict=True):
            if held is not None:
                held.copy_(value)


class TrainingOnCPU(ReplayedTraining):
    def __init__(self, potential: Potential, *, backend: str | None = None, **settings: Any) -> None:
        super().__init__(potential, backend=backend, **settings)
        self.otherwise = CompiledPotential(potential, backend="eager")

    def _check_device(self, device: torch.device) -> None:
        pass

    def _record(self, form: Form, padded: Graph) -> _Recording:
        traced, step = self._step(form)
        inputs = [value.clone() for value in traced.arguments(padded)]
        outputs = list(step(*inputs))
        cotangents = [torch.zeros_like(out) for out in outputs]
        gradients = _gradients(outputs, self.weights, cotangents)
        held: list[_Recording] = []
        forward = _Forward(step, held)
        outputs = [torch.full_like(out, torch.nan) for out in outputs]
        backward = _Backward(forward, self.weights)
        held.append(_Recording(_room(padded), inputs, outputs, cotangents, gradients, forward, backward))
        return held[0]
