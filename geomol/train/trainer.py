"""One optimisation step, one validation, and the state from which both continue exactly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from geomol.errors import TrainingDivergedError
from geomol.geometry import random_rotations
from geomol.potential import Potential
from geomol.train.config import TrainConfig
from geomol.train.losses import potential_loss
from geomol.train.setup import LabelledStore

EMA_WARMUP = 10  # the average forgets its start over this many steps


def seeded(*numbers: int) -> torch.Generator:
    """A random generator that depends on these numbers alone, so that every step has its own and none needs saving."""
    seed = 0
    for number in numbers:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)


class Trainer:
    """Model, optimiser, weight average and position in the data.

    All randomness (order of the structures, rotations) follows from the seed and the step, so the state is complete
    without any generator, and a run that continues from it repeats every bit.
    """

    def __init__(self, potential: Potential, config: TrainConfig, train: LabelledStore, valid: LabelledStore) -> None:
        self.potential, self.config, self.train, self.valid = potential, config, train, valid
        self.parameters = [p for p in potential.parameters() if p.requires_grad]
        opt = config.optimiser
        kind = torch.optim.AdamW if opt.name == "adamw" else torch.optim.Adam
        self.optimiser = kind(self.parameters, lr=opt.learning_rate, weight_decay=opt.weight_decay, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = 0
        self.elapsed = 0.0  # seconds of training in all calls together
        self.loss_sum, self.loss_count = 0.0, 0
        self.best = math.inf

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.config.run.batch_size)

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Part of the schedule that is done, 0 to 1."""
        schedule = self.config.schedule
        if schedule.minutes is not None:
            return min(1.0, self.elapsed / (60 * schedule.minutes))
        assert schedule.epochs is not None
        return min(1.0, self.step / (schedule.epochs * self.steps_per_epoch))

    @property
    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine to zero."""
        warmup = min(1.0, (self.step + 1) / max(1, self.config.schedule.warmup_steps))
        return self.config.optimiser.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * self.progress))

    def batch_index(self) -> Tensor:
        """Structures of this step: each epoch runs through a permutation of its own."""
        order = torch.randperm(len(self.train), generator=seeded(self.config.run.seed, 1, self.epoch))
        start = (self.step % self.steps_per_epoch) * self.config.run.batch_size
        return order[start : start + self.config.run.batch_size]

    def train_step(self) -> None:
        """One update of the weights and of their average.

        Raises:
            TrainingDivergedError: the loss is not finite; the weights are left as they were before the step.
        """
        index = self.batch_index()
        rotation = None
        if self.config.run.rotate:
            rotation = random_rotations(len(index), generator=seeded(self.config.run.seed, 2, self.step))
        graph, labels = self.train.batch(index, rotation)
        loss_config = self.config.loss
        predicted = self.potential(
            graph, forces=loss_config.forces > 0, stress=loss_config.stress > 0, create_graph=True
        )
        loss = potential_loss(predicted, labels, graph, self.potential.scale_value, loss_config)
        value = loss.item()
        if not math.isfinite(value):
            self._explain_divergence(index)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.optimiser.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimiser.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.optimiser.step()
        decay = min(self.config.optimiser.ema, (1 + self.step) / (EMA_WARMUP + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1

    def _explain_divergence(self, index: Tensor) -> None:
        bad = [name for name, p in self.potential.named_parameters() if not bool(p.isfinite().all())]
        raise TrainingDivergedError(
            f"the loss became NaN or infinite at step {self.step}",
            where=f"structures {index.tolist()} of the training part",
            got=f"first bad weights: {bad[0]}" if bad else "finite weights: a label, or an overflow in this batch",
            remedy="lower optimiser.learning_rate or check these structures; the last good state is kept",
        )

    def swap_average(self) -> None:
        """Exchanges the weights with their average; call again to swap back."""
        with torch.no_grad():
            for p, a in zip(self.parameters, self.average, strict=True):
                held = p.detach().clone()
                p.copy_(a)
                a.copy_(held)

    def validate(self) -> dict[str, float]:
        """Errors of the averaged weights on the validation part."""
        self.swap_average()
        try:
            return validation_errors(self.potential, self.valid, with_stress=self.config.loss.stress > 0)
        finally:
            self.swap_average()

    def state(self) -> dict[str, Any]:
        """Everything a later call needs to go on as if nothing had happened."""
        return {
            "weights": {name: p.detach().clone() for name, p in self.potential.state_dict().items()},
            "average": [a.clone() for a in self.average],
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "best": self.best,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.potential.load_state_dict(state["weights"])
        with torch.no_grad():
            for a, saved in zip(self.average, state["average"], strict=True):
                a.copy_(saved)
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed, self.best = state["step"], state["elapsed"], state["best"]
        self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]


def validation_errors(
    potential: Potential, part: LabelledStore, *, with_stress: bool, batch_size: int = 32
) -> dict[str, float]:
    """MAE of energy, MAE and RMSE of forces, MAE of stress."""
    device = part.energy.device
    energy, force, stress = [], [], []
    for start in range(0, len(part), batch_size):
        graph, labels = part.batch(torch.arange(start, min(start + batch_size, len(part)), device=device))
        out = potential(graph, stress=with_stress)
        energy.append(out.energy - labels.energy)
        if labels.forces is not None:
            force.append(out.forces - labels.forces)
        if with_stress and labels.stress is not None:
            stress.append(out.stress - labels.stress)
    errors = {"valid_energy_mae_eV": float(torch.cat(energy).abs().mean())}
    if force:
        error = torch.cat(force)
        errors["valid_force_mae_eV_per_A"] = float(error.abs().mean())
        errors["valid_force_rmse_eV_per_A"] = float(error.square().mean().sqrt())
    if stress:
        errors["valid_stress_mae_eV_per_A3"] = float(torch.cat(stress).abs().mean())
    return errors
