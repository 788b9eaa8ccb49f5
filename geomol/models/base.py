"""What a backbone takes, gives and promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from geomol.graph import Graph


@dataclass(frozen=True)
class Symmetry:
    """The symmetry that a backbone claims, as data; tests and the audit hold it to that.

    Attributes:
        group: "E(3)", "SE(3)", "T(3)" (translations only) or "1" (none); permutations are always included.
        exact: to rounding (True), or only up to a measured error, as with a grid of orientations (False).
        smooth: energies built from it are continuously differentiable where a pair enters or leaves the cutoff.
    """

    group: str
    exact: bool
    smooth: bool


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
