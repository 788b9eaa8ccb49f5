"""What a denoiser is told of a whole structure besides its size: properties, in units of their spread."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.errors import ConfigError

MeanAndSpread = tuple[float, float]


def standardised(
    conditions: Mapping[str, MeanAndSpread], context: Float[Tensor, "G C"] | None, level: Float[Tensor, " G"]
) -> Float[Tensor, "G T"]:
    """Values in units of their spread, 0 where they are not given (NaN), and then whether they are given."""
    if context is None:
        context = level.new_full((len(level), len(conditions)), torch.nan)
    mean, spread = torch.tensor(list(conditions.values()), dtype=level.dtype, device=level.device).unbind(1)
    given = ~context.isnan()
    values = torch.where(given, (context - mean) / spread, 0.0).to(level.dtype)
    return torch.cat([values, given.to(level.dtype)], dim=1)


def weights_of_sizes(
    sizes: Mapping[int, float],
    tables: Mapping[str, Mapping[int, tuple[float, float]]],
    context: Mapping[str, float],
) -> dict[int, float]:
    """Weights of the sizes of structures with these conditions: Bayes' rule with a normal law at each size.

    Args:
        sizes: weights without conditions.
        tables: of each condition, mean and standard deviation at each size; without one it says nothing of the size.
        context: values asked for.
    """
    weights = {size: float(weight) for size, weight in sizes.items()}
    for name, value in context.items():
        if table := tables.get(name):
            logs = {n: -(((value - mean) / std) ** 2) / 2 - math.log(std) for n, (mean, std) in table.items()}
            best = max(logs.values())
            weights = {n: w * math.exp(logs[n] - best) for n, w in weights.items() if n in logs}
    return weights


def added_columns(ours: Mapping[str, MeanAndSpread], theirs: Mapping[str, MeanAndSpread]) -> list[int]:
    """Columns of `standardised` that come of conditions which are ours alone.

    Raises:
        ConfigError: they have conditions that we have not, or tell them in other units.
    """
    for name, units in theirs.items():
        if ours.get(name) != units:
            got = str(ours.get(name, "none"))
            raise ConfigError(f'condition "{name}" has another mean and spread', expected=str(units), got=got)
    new = [k for k, name in enumerate(ours) if name not in theirs]
    return new + [len(ours) + k for k in new]
