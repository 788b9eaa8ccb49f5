"""Potentials whose kernels are read from tables, fine enough for a stated error of the forces."""

from __future__ import annotations

import copy

import torch

from geomol.compiled.form import Form, sample_graphs
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import tabulate
from geomol.potential import Potential

TOLERANCE = 1e-4  # eV/Å
SPACINGS = tuple(0.2 / 2**k for k in range(6))  # Å, tried in turn


class TabulatedPotential(Potential):
    """A potential with the kernels of its backbone as cubic splines, see `tabulate`; made by `tabulated`. It is for
    inference: weights behind the tables cannot be trained, and it is not saved but made again.

    Attributes:
        spacing: of the knots, Å.
        force_error: largest difference of a force component from the model as it was, eV/Å, on sample structures.
        table_bytes: of all tables.
    """

    spacing: float
    force_error: float
    table_bytes: int

    @property
    def config(self) -> dict[str, object]:
        return {**super().config, "tabulated": {"spacing": self.spacing, "force_error": self.force_error}}


def tabulated(potential: Potential, *, tolerance: float = TOLERANCE, graphs: tuple[Graph, ...] = ()) -> Potential:
    """The potential with tables as coarse as the error of its forces allows.

    The spacing of the knots is halved, from 0.2 Å on, until no force component on the structures differs by more than
    the tolerance, in float64. Structures are clusters, and crystals where the model knows them, with atoms from 1.3 Å
    up to the cutoff apart; further ones may be given.

    Args:
        potential: copied; of any precision, on any device.
        tolerance: largest error of a force component, eV/Å.
        graphs: further structures on which it must hold, positions in float64.

    Raises:
        ConfigError: a model without kernels to tabulate, a tolerance that is not positive, or one that tables of a
            reasonable size do not reach.
    """
    if not tolerance > 0:
        raise ConfigError("the error of the forces must be positive (eV/Å)", got=str(tolerance))
    exact = copy.deepcopy(potential).double().eval()
    graphs = (*graphs, *_samples(exact))
    expected = [exact(graph).forces for graph in graphs]
    error = float("inf")
    for spacing in SPACINGS:
        trial = _with_tables(exact, spacing)
        error = max(float((trial(g).forces - f).abs().max()) for g, f in zip(graphs, expected, strict=True))
        if error <= tolerance:
            found = _with_tables(potential, spacing)
            found.force_error = error
            return found
    raise ConfigError(
        "tables do not reach this error of the forces",
        expected=f"{tolerance:g} eV/Å",
        got=f"{error:.1e} eV/Å with knots every {SPACINGS[-1]:g} Å",
        remedy="allow a larger error, or use the model as it is",
    )


def _with_tables(potential: Potential, spacing: float) -> TabulatedPotential:
    found = TabulatedPotential(
        copy.deepcopy(potential.backbone),
        elements=potential.elements,
        e0=potential.e0_values,
        scale=potential.scale_value,
        zbl=potential.zbl is not None,
        allow_discontinuous=potential.allow_discontinuous,
    )
    found.spacing, found.force_error = spacing, float("nan")
    found.table_bytes = tabulate(found.backbone, spacing)
    return found.to(next(potential.buffers(), torch.empty(0)).device).eval().requires_grad_(False)


def _samples(potential: Potential) -> tuple[Graph, ...]:
    forms = [Form(periodic=False, single=single, stress=False, training=False) for single in (True, False)]
    return tuple(graph for form in forms for graph in sample_graphs(potential, form))
