"""What a backbone takes, gives and promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from geomol.graph import Graph


@dataclass(frozen=True)
class Symmetry:
    """The symmetry that a backbone claims, as data; tests and the audit hold it to that.

    Attributes:
        group: "E(3)", "SE(3)", "SE(2)" (in the plane z = const), "O(3)", "SO(3)" (both about the centroid), "T(3)"
            (translations only) or "1" (none); permutations are always included.
        exact: to rounding (True), or only up to a measured error, as with a grid of orientations (False).
        smooth: energies built from it are continuously differentiable where a pair enters or leaves the cutoff.
        continuous: the features are continuous functions of the positions; those of plain PCA frames are not.
        separable: structures far from each other do not feel each other; not so where one pose is taken from all atoms,
            nor on complete graphs, whose pairs count at any distance.
        stochastic: symmetric only on average over random poses.
    """

    group: str
    exact: bool
    smooth: bool
    continuous: bool = True
    separable: bool = True
    stochastic: bool = False


@dataclass(frozen=True, eq=False)
class Features:
    """What a backbone gives per node: invariants, vectors that rotate with the structure, or both."""

    scalars: Float[Tensor, "N C"]
    vectors: Float[Tensor, "N V 3"] | None = None
    irreps: str | None = None


class Backbone(Protocol):
    """Any `torch.nn.Module` of this shape. Constructor keyword arguments are its config, kept in `config`."""

    cutoff: float
    symmetry: Symmetry
    config: dict[str, object]

    def __call__(self, graph: Graph) -> Features: ...


@runtime_checkable
class Calibrated(Protocol):
    """A backbone that scales its untrained weights on a typical batch; called once, before training."""

    def calibrate(self, graph: Graph) -> None: ...


@runtime_checkable
class Compilable(Protocol):
    """A backbone that says which of its parts `torch.compile` is to be used on."""

    def compile_parts(self) -> None: ...


@runtime_checkable
class Penalised(Protocol):
    """A module with a term of its own in the training loss (a prior on poses, a width to be rewarded, …)."""

    def penalty(self) -> Tensor | None:
        """0-dimensional and differentiable, of the last call; None where there is nothing to add."""


@runtime_checkable
class Reseeded(Protocol):
    """A module that draws random numbers: they follow from this number, which the trainer sets before each step."""

    def reseed(self, draw: int) -> None: ...


def config_of(arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a constructor (its `locals()`) as a configuration that is the same after a way through JSON."""
    return {key: _plain(value) for key, value in arguments.items() if key not in ("self", "__class__")}


def _plain(value: object) -> object:
    """Sequences as lists, numbers and arrays of NumPy as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
