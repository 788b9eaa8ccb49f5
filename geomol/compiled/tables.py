"""Potentials whose kernels are read from tables, fine enough for a stated error of the forces."""

from __future__ import annotations

import copy
import hashlib
import math
from itertools import product
from typing import Self

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, build_graph
from geomol.models import tabulate
from geomol.nn import device_of
from geomol.potential import Potential

TOLERANCE = 1e-4  # eV/Å
SAFETY = 3  # between the samples and other structures; twice as much was seen
SPACINGS = tuple(0.2 / 2 ** (k / 2) for k in range(11))  # Å, tried in turn
_LATTICES = (0.9, 1.3, 1.9, 2.7)  # Å
_JITTER = 0.12  # of the spacing


class TabulatedPotential(Potential):
    """A potential with the kernels of its backbone as cubic splines, see `tabulate`; made by `tabulated`. It is for
    inference: weights behind the tables cannot be trained, and it is not saved but made again.

    Attributes:
        spacing: of the knots, Å.
        force_error: largest difference of a force component from the model as it was, eV/Å, on sample structures, or of
            the rms force of one where that is above 1 eV/Å.
        table_bytes: of all tables.
        source: SHA-256 of the weights that they were made from.
    """

    spacing: float
    force_error: float
    table_bytes: int
    source: str

    @property
    def config(self) -> dict[str, object]:
        """That of the potential, with the spacing and the weights that the tables follow from."""
        return {**super().config, "tabulated": {"spacing": self.spacing, "weights": self.source}}

    @classmethod
    def from_config(cls, config: dict[str, object]) -> Self:
        """Raises ConfigError: tables are made from weights, not from settings."""
        raise ConfigError("tables are made from the weights of a potential", remedy="geomol.compiled.tabulated")


def tabulated(potential: Potential, *, tolerance: float = TOLERANCE, graphs: tuple[Graph, ...] = ()) -> Potential:
    """The potential with tables as coarse as the error of its forces allows.

    The spacing of the knots is made smaller, from 0.2 Å on, until no force component on sample structures differs by
    more than a third of the tolerance, in float64; other structures may be that much worse. Samples are clusters of 18
    atoms of all elements, from dense (neighbours at 0.7 to 1.1 Å) to thin; further ones may be given. Where one is so
    far from any structure that its rms force is above 1 eV/Å, the tolerance is that of multiples of this force.

    Args:
        potential: copied; of any precision, on any device.
        tolerance: largest error of a force component, eV/Å.
        graphs: further samples, positions in float64.

    Raises:
        ConfigError: no potential, or one without kernels to tabulate, a tolerance that is not positive, or one that
            tables of a reasonable size do not reach.
    """
    if not isinstance(potential, Potential):
        raise ConfigError("only potentials have kernels to tabulate", got=type(potential).__name__)
    if not tolerance > 0:
        raise ConfigError("the error of the forces must be positive (eV/Å)", got=str(tolerance))
    exact = copy.deepcopy(potential).double().eval()
    graphs = (*graphs, *_clusters(exact))
    expected = [exact(graph).forces for graph in graphs]
    error = float("inf")
    for spacing in SPACINGS:
        trial = _with_tables(exact, spacing)
        error = float(np.max([_error(trial(g).forces, f) for g, f in zip(graphs, expected, strict=True)]))
        if error <= tolerance / SAFETY:
            found = _with_tables(potential, spacing)
            found.force_error, found.source = error, _digest(potential)
            return found
    raise ConfigError(
        "tables do not reach this error of the forces",
        expected=f"{tolerance / SAFETY:.1e} eV/Å on the samples",
        got=f"{error:.1e} eV/Å with knots every {SPACINGS[-1]:g} Å",
        remedy="allow a larger error by `tolerance`, or use the model as it is",
    )


def _error(forces: Tensor, expected: Tensor) -> float:
    """Largest difference of a component, eV/Å, or in units of the rms force where that is larger."""
    unit = expected.square().mean().sqrt().clamp(min=1.0)
    return float((forces - expected).abs().max() / unit)


def _with_tables(potential: Potential, spacing: float) -> TabulatedPotential:
    found = TabulatedPotential(
        copy.deepcopy(potential.backbone),
        elements=potential.elements,
        e0=potential.e0_values,
        scale=potential.scale_value,
        zbl=potential.zbl is not None,
        allow_discontinuous=potential.allow_discontinuous,
    )
    found.spacing, found.force_error, found.source = spacing, math.nan, ""
    found.table_bytes = tabulate(found.backbone, spacing)
    return found.to(device_of(potential)).eval().requires_grad_(False)


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _clusters(potential: Potential) -> list[Graph]:
    """Atoms near the points of lattices of several spacings, as often as it takes for all elements to have had a turn
    in each.
    """
    points, rng = np.array(list(product(range(3), range(2), range(3))), dtype=float), np.random.default_rng(0)
    elements, device = potential.elements, device_of(potential)
    turns = [
        [elements[(first + k) % len(elements)] for k in range(len(points))]
        for first in range(0, len(elements), len(points))
    ]
    return [
        build_graph(
            Atoms(numbers, spacing * (points + rng.uniform(-_JITTER, _JITTER, points.shape))),
            potential.cutoff,
            dtype=torch.float64,
            device=device,
            complete=not math.isfinite(potential.cutoff),
        )
        for spacing in _LATTICES
        for numbers in turns
    ]
