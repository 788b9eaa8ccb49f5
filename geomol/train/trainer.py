"""One optimisation step, one validation, and the state from which both continue exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import TrainingDivergedError
from geomol.models import Reseeded
from geomol.train.config import TrainConfig
from geomol.train.muon import Muon, matrices_of
from geomol.train.objective import Objective
from geomol.train.sections import OptimiserConfig
from geomol.train.tasks import Ordered, Prepared, own_randomness, seeded

EMA_WARMUP = 10  # the average forgets its start over this many steps
SEED_STRIDE = 715_225_741  # between the draws of two seeds; generators see the low 32 bits only


class Trainer:
    """Model, optimiser, weight average and position in the data.

    All randomness (order of the structures, rotations, random poses, dropout) follows from the seed and the step, so
    the state is complete without any generator, and a run that continues from it repeats every bit.
    """

    def __init__(self, prepared: Prepared, config: TrainConfig) -> None:
        self.model, self.task, self.config = prepared.model, prepared.task, config
        self.train, self.valid = prepared.train, prepared.valid
        self.objective = Objective(self.model, self.task, self.train, config)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimisers = new_optimisers(self.model, config.optimiser)
        self.averages = [[p.detach().clone() for p in self.parameters] for _ in config.optimiser.ema_tracks]
        self.track = 0  # of the averages, the one that was best at the last validation
        self.step = 0
        self.elapsed = 0.0  # seconds of training in all calls together
        self.loss_sum, self.loss_count = 0.0, 0
        self.best = math.inf
        self._order = -1, torch.empty(0, dtype=torch.int64)  # epoch, and the order of the data in it

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
        """Linear warm-up, then half a cosine to zero, or no decay."""
        warmup = min(1.0, (self.step + 1) / max(1, self.config.schedule.warmup_steps))
        decay = 0.5 * (1 + math.cos(math.pi * self.progress)) if self.config.schedule.decay == "cosine" else 1.0
        return self.config.optimiser.learning_rate * warmup * decay

    @property
    def draw(self) -> int:
        """What modules with random numbers of their own are told: another number at each step of each seed."""
        return self.step + SEED_STRIDE * self.config.run.seed

    def batch_index(self) -> Tensor:
        """Structures of this step: each epoch runs through a permutation of its own."""
        size = self.config.run.batch_size
        if self._order[0] != self.epoch:
            generator = seeded(self.config.run.seed, 1, self.epoch)
            if isinstance(self.train, Ordered):
                order = self.train.order(generator, size)
            else:
                order = torch.randperm(len(self.train), generator=generator)
            self._order = self.epoch, order
        start = (self.step % self.steps_per_epoch) * size
        return self._order[1][start : start + size]

    def train_step(self) -> None:
        """One update of the weights and of their average.

        Raises:
            TrainingDivergedError: the loss is not finite; the weights are left as they were before the step.
        """
        index = self.batch_index()
        for module in self.model.train().modules():
            if isinstance(module, Reseeded):
                module.reseed(self.draw)
        with own_randomness(seeded(self.config.run.seed, 4, self.step).initial_seed(), self.config.run.device):
            loss = self.objective(index, self.step, self.progress)
        read_loss = on_its_way(loss)
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.optimiser.clip > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimiser.clip)
        value = read_loss()  # only now, with a GPU busy on the derivatives, and before the weights change
        if not math.isfinite(value):
            self._explain_divergence(index)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate
            optimiser.step()
        weights = [p.detach() for p in self.parameters]
        for average, longest in zip(self.averages, self.config.optimiser.ema_tracks, strict=True):
            decay = min(longest, (1 + self.step) / (EMA_WARMUP + self.step))
            torch._foreach_lerp_(average, weights, 1 - decay)
        self.step += 1
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1

    def _explain_divergence(self, index: Tensor) -> None:
        bad = [name for name, p in self.model.named_parameters() if not bool(p.isfinite().all())]
        raise TrainingDivergedError(
            f"the loss became NaN or infinite at step {self.step}",
            where=f"structures {index.tolist()} of the training part",
            got=f"first bad weights: {bad[0]}" if bad else "finite weights: a label, or an overflow in this batch",
            remedy="lower optimiser.learning_rate or check these structures; the last good state is kept",
        )

    def swap_average(self) -> None:
        """Exchanges the weights with their average, the best one of several; call again to swap back."""
        with torch.no_grad():
            for p, a in zip(self.parameters, self.averages[self.track], strict=True):
                held = p.detach().clone()
                p.copy_(a)
                a.copy_(held)

    def validate(self) -> dict[str, float]:
        """Errors of the averaged weights on the validation part, those of the best average where there are several."""
        found = []
        for track in range(len(self.averages)):
            self.track = track
            self.swap_average()
            try:
                found.append(self.task.errors(self.model.eval(), self.valid))
            finally:
                self.swap_average()
        self.track = min(range(len(found)), key=lambda k: self.task.score(found[k]))
        return found[self.track]

    def state(self) -> dict[str, Any]:
        """Everything a later call needs to go on as if nothing had happened; copies, which later steps leave alone."""
        return {
            "weights": {name: p.detach().clone() for name, p in self.model.state_dict().items()},
            "averages": [[a.clone() for a in average] for average in self.averages],
            "track": self.track,
            "optimisers": [copy.deepcopy(optimiser.state_dict()) for optimiser in self.optimisers],
            "objective": self.objective.state(),
            "step": self.step,
            "elapsed": self.elapsed,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "best": self.best,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.model.load_state_dict(state["weights"])
        with torch.no_grad():
            # states of runs before there were several averages hold one
            saved_averages = state["averages"] if "averages" in state else [state["average"]]
            for average, kept in zip(self.averages, saved_averages, strict=True):
                for a, saved in zip(average, kept, strict=True):
                    a.copy_(saved)
        self.track = state.get("track", 0)
        # states of runs before there could be several optimisers hold one
        saved_optimisers = state["optimisers"] if "optimisers" in state else [state["optimiser"]]
        for optimiser, saved in zip(self.optimisers, saved_optimisers, strict=True):
            optimiser.load_state_dict(copy.deepcopy(saved))  # or it would share the tensors
        if "objective" in state:  # states of runs before there were several objectives have none
            self.objective.load_state(state["objective"])
        self.step, self.elapsed, self.best = state["step"], state["elapsed"], state["best"]
        self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]


def on_its_way(loss: Float[Tensor, ""]) -> Callable[[], float]:
    """Reads a loss; where a GPU computes it, the caller waits when it asks, and then for this number alone."""
    value = loss.detach()
    if not value.is_cuda:
        return value.item
    host = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(value.device))

    def read() -> float:
        copied.synchronize()
        return host.item()

    return read


def new_optimisers(model: nn.Module, config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """What updates the trainable weights: one optimiser for all, or Muon for matrices and AdamW for all else."""
    rate, decay = config.learning_rate, config.weight_decay
    matrices = matrices_of(model) if config.name == "muon" else []
    taken = set(matrices)
    others = [p for p in model.parameters() if p.requires_grad and p not in taken]
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    found: list[torch.optim.Optimizer] = [Muon(matrices, rate, weight_decay=decay)] if matrices else []
    return [*found, kind(others, lr=rate, weight_decay=decay, fused=True)] if others else found
