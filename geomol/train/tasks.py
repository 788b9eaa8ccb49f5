"""What can be learned: a task supplies the model, the data, the loss and the errors to one trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.checkpoint import Model


class Part(Protocol):
    """A part of the data on the device, batched by index."""

    def __len__(self) -> int: ...

    def batch(self, index: Int[Tensor, " B"], rotation: Float[Tensor, "B 3 3"] | None = None) -> tuple[Any, Any]:
        """Inputs and labels of some members, turned together where rotations (or rotation-reflections) are given."""


@runtime_checkable
class Ordered(Protocol):
    """A part that says in which order an epoch runs through it."""

    def order(self, generator: torch.Generator, batch_size: int) -> Int[Tensor, " S"]:
        """As many members as there are, at random."""


class Task(Protocol):
    """How a model is judged.

    Attributes:
        columns: the errors that are logged.
        score: the one by which the best model is chosen.
    """

    @property
    def columns(self) -> Sequence[str]: ...

    def loss(self, model: nn.Module, inputs: Any, labels: Any) -> Float[Tensor, ""]:
        """What training minimises on a batch."""

    def errors(self, model: nn.Module, part: Any) -> dict[str, float]:
        """Figures on a whole part; no gradients are kept."""

    def score(self, errors: dict[str, float]) -> float:
        """The figure that the best model has lowest."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that a run needs before its first step; `parts` are the records that the stores were made from."""

    model: Model
    task: Task
    train: Part
    valid: Part
    parts: dict[str, Any]
    data_hash: str


def seeded(*numbers: int) -> torch.Generator:
    """A random generator that depends on these numbers alone, so that every step has its own and none needs saving."""
    seed = 0
    for number in numbers:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)


@contextmanager
def own_randomness(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """What draws from the process-wide generators (initial weights, dropout) follows `seed` inside a `with` block; the
    caller's generators come out as they went in.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    # not torch.manual_seed, which would also seed the generators of every GPU, and those are not saved here
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
