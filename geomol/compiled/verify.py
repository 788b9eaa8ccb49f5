"""Whether a compiled step computes what the potential does: energies, derivatives, and gradients of losses on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from geomol.compiled.form import Form
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.ops import segment_sum
from geomol.potential import Potential

Step = Callable[[Graph], Sequence[Tensor]]

EXACT = 1e-10  # relative, in float64
ROUNDED = 1e-5  # relative, in float32 ...
FACTOR = 8.0  # ... or this many times the rounding error of the plain potential, where that is larger
_QUANTITIES = ("energies", "node energies", "forces", "strain derivative")
_SMALL = 1e-3  # of the largest gradient: tensors with smaller ones are measured against this


def plain_step(potential: Potential, form: Form) -> Step:
    """The potential itself in the shape of a compiled step."""

    def step(graph: Graph) -> list[Tensor]:
        out = potential(graph, stress=form.stress, create_graph=form.training)
        values = [out.energy, out.node_energy, out.forces]
        if form.stress:
            volume = torch.linalg.det(graph.cell).abs()[:, None, None]
            values.append(out.stress * volume)
        return values

    return step


def check_step(potential: Potential, step: Step, form: Form, graphs: Sequence[Graph]) -> None:
    """Holds a step to the potential on graphs of different sizes.

    In float64 all results agree to 1e-10. In a lower precision the plain potential in float64 is the truth, and the
    step may be off by 1e-5 of the largest value, or by as much as the rounding of the plain potential explains.

    Raises:
        ConfigError: a result that differs, with its name and by how much.
    """
    exact = potential.dtype == torch.float64
    truth = potential if exact else copy.deepcopy(potential).double()
    names = [name for name, p in potential.named_parameters() if p.requires_grad]
    for graph in graphs:
        expected = _results(truth, plain_step(truth, form), form, graph)
        got = _differences(_results(potential, step, form, graph), expected)
        rounding = [0.0] * len(got)
        if not exact:
            rounding = _differences(_results(potential, plain_step(potential, form), form, graph), expected)
        labels = [*_QUANTITIES[: 4 if form.stress else 3], *(f"training gradient of {name}" for name in names)]
        for label, difference, error in zip(labels, got, rounding, strict=False):
            allowed = EXACT if exact else max(ROUNDED, FACTOR * error)
            if not difference <= allowed:
                raise ConfigError(
                    "the compiled potential does not compute what the plain one does",
                    where=f"{form}, {graph.num_nodes} atoms",
                    expected=f"{label} within {allowed:.1e} (relative)",
                    got=f"{difference:.1e}",
                    remedy="use it without compile, and report this",
                )


def _results(potential: Potential, step: Step, form: Form, graph: Graph) -> list[Tensor]:
    """Results of a step without the constant part of the energies, and for training the gradient of a loss on all."""
    values = list(step(graph))
    e0 = torch.tensor(potential.e0_values, dtype=torch.float64, device=graph.device)[potential.species(graph.numbers)]
    total = segment_sum(e0, graph.ptr)
    values[0], values[1] = values[0] - total, values[1] - e0
    gradients: list[Tensor] = []
    if form.training:
        loss = torch.stack([(_mixture(value) * value).sum() for value in values]).sum()
        weights = [p for p in potential.parameters() if p.requires_grad]
        if weights:
            gradients = list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
    return [value.detach().double() for value in [*values, *gradients]]


def _mixture(value: Tensor) -> Tensor:
    """Fixed coefficients, all different: a mistake cannot cancel in the sum."""
    return torch.cos(torch.arange(value.numel(), dtype=value.dtype, device=value.device)).view_as(value)


def _differences(got: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Largest deviation of each result, relative to its largest value."""
    sizes = [float(value.abs().max()) if value.numel() else 0.0 for value in expected]
    least = _SMALL * max(sizes[4:], default=0.0)
    differences = []
    for a, b, size in zip(got, expected, sizes, strict=True):
        deviation = float((a - b).abs().max()) if b.numel() else 0.0
        differences.append(deviation / max(size, least, 1e-12))
    return differences
