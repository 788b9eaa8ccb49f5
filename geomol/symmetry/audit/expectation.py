"""Models that are symmetric only on average over random poses: is the average symmetric?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from geomol.graph import Graph
from geomol.symmetry.actions import Kind
from geomol.symmetry.audit.model import Model, pulled_back, sample_norms, scale_of
from geomol.symmetry.groups import Element, identity


@dataclass(frozen=True)
class ExpectedError:
    """Whether the expectation of one output is equivariant.

    Attributes:
        output: name.
        noise: root mean square spread of single predictions, relative to the output.
        bias: root mean square of the mean difference ρ(g)⁻¹ f(g·x) − f(x), relative to the output.
        deviations: that mean in units of its standard error, root mean square over entries: about 1 without bias.
        draws: predictions averaged on either side.
    """

    output: str
    noise: float
    bias: float
    deviations: float
    draws: int


def expected_errors(
    model: Model,
    reseed: Callable[[int], None],
    graph: Graph,
    kinds: Mapping[str, Kind],
    elements: Sequence[Element],
) -> list[ExpectedError]:
    """Compare the mean over draws of f(x) with that of ρ(g)⁻¹ f(g·x), one random element with each draw.

    Args:
        model, graph, kinds: what to run.
        reseed: makes the random numbers of the next calls those of this number.
        elements: one for each draw.
    """
    still: dict[str, list[torch.Tensor]] = {name: [] for name in kinds}
    moved: dict[str, list[torch.Tensor]] = {name: [] for name in kinds}
    for draw, element in enumerate(elements):
        for place, (chosen, lists) in enumerate(((identity(), still), (element, moved))):
            reseed(2 * draw + place)
            for name, value in pulled_back(model, graph, kinds, [chosen]).items():
                lists[name].append(value[0])
    reseed(0)
    found = []
    for name, kind in kinds.items():
        a, b = torch.stack(still[name]), torch.stack(moved[name])
        difference = b.mean(0) - a.mean(0)
        error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
        rounding = 1e-9 * (1 + float(a.abs().max()))
        ratio = difference.square().sum() / (error.square() + rounding**2).sum()
        scale = scale_of(kind, a.mean(0), graph) or 1.0
        found.append(
            ExpectedError(
                output=name,
                noise=float(sample_norms(kind, a - a.mean(0), graph).square().mean().sqrt()) / scale,
                bias=float(sample_norms(kind, difference[None], graph).square().mean().sqrt()) / scale,
                deviations=math.sqrt(float(ratio)),
                draws=len(a),
            )
        )
    return found
