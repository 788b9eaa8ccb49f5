"""Tables of smooth functions: cubic splines on an even grid, in one variable or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from geomol.errors import ConfigError

NUM_PIECES = 4  # B-splines that are not zero at a point, along one axis
MARGIN = 24  # knots beyond each end that a table is solved for: what is wrong there decays by 0.27 a knot

# The cubic B-spline: what that of knot i + k − 1 is at i + t, as coefficients of 1, t, t², t³; a row for each k.
_PIECES = ((1 / 6, -1 / 2, 1 / 2, -1 / 6), (2 / 3, 0, -1, 1 / 2), (1 / 6, 1 / 2, 1 / 2, -1 / 2), (0, 0, 0, 1 / 6))


@dataclass(frozen=True)
class SplineGrid:
    """Where a table lies: evenly spaced knots in a box.

    Attributes:
        start: lowest corner of the box.
        spacing: between knots, the same along all axes.
        counts: intervals along each axis.
    """

    start: tuple[float, ...]
    spacing: float
    counts: tuple[int, ...]

    @staticmethod
    def over(bounds: Sequence[tuple[float, float]], spacing: float) -> SplineGrid:
        """The grid that covers a box, exactly along its first axis, with knots at most `spacing` apart.

        Raises:
            ConfigError: an empty box, or a spacing that is not positive.
        """
        if not (spacing > 0 and math.isfinite(spacing)) or any(not low < high for low, high in bounds):
            raise ConfigError("a table needs a box and a spacing", got=f"{list(bounds)}, {spacing}")
        nearly = 1 - 1e-12  # of what divides evenly but for rounding
        low, high = bounds[0]
        step = (high - low) / math.ceil((high - low) / spacing * nearly)
        counts = tuple(math.ceil((high - low) / step * nearly) for low, high in bounds)
        return SplineGrid(tuple(low for low, _ in bounds), step, counts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Coefficients along each axis: one for each B-spline that is not zero in the box."""
        return tuple(count + NUM_PIECES - 1 for count in self.counts)

    @property
    def num_rows(self) -> int:
        """Rows of a table."""
        return math.prod(self.shape)

    def table(self, function: Callable[[Float[Tensor, "P A"]], Float[Tensor, "P C"]]) -> Float[Tensor, "R C"]:
        """Coefficients of the spline that agrees with a function at all knots, float64.

        The function is evaluated up to 24 spacings outside the box too, and must be smooth there.
        """
        axes = [
            low + self.spacing * torch.arange(-MARGIN, count + MARGIN + 1, dtype=torch.float64)
            for low, count in zip(self.start, self.counts, strict=True)
        ]
        points = torch.cartesian_prod(*axes).view(-1, len(axes))
        values = function(points).view(*(len(axis) for axis in axes), -1)
        for axis, size in enumerate(self.shape):
            values = _solve(values, axis).narrow(axis, MARGIN - 1, size)
        return values.reshape(self.num_rows, -1)

    def places(self, points: Float[Tensor, "M A"]) -> SplinePlaces:
        """Points of the box as tables read them. Those outside are taken to its edge, and have the slope there."""
        scale = 1 / self.spacing
        index, remainders = None, []
        for axis, (low, count) in enumerate(zip(self.start, self.counts, strict=True)):
            u = ((points.detach()[:, axis] - low) * scale).clamp(0, count)
            cell = u.nan_to_num().floor().clamp(max=count - 1)  # what is no number reads somewhere, and stays none
            remainders.append((u - cell)[:, None])
            index = cell.int() if index is None else index * self.shape[axis] + cell.int()
        assert index is not None
        offsets = torch.zeros(1, dtype=torch.int32, device=points.device)
        for size in self.shape:
            pieces = torch.arange(NUM_PIECES, dtype=torch.int32, device=points.device)
            offsets = (offsets[:, None] * size + pieces).flatten()
        return SplinePlaces(points, index[:, None] + offsets, tuple(remainders), self.spacing)


@dataclass(frozen=True, eq=False)
class SplinePlaces:
    """Points at which tables are read, and the rows that each of them takes.

    Attributes:
        points: the points; derivatives go to them.
        index: rows of a table for each point.
        remainders: along each axis, how far into its interval a point is, 0 to 1.
        spacing: of the knots.
    """

    points: Float[Tensor, "M A"]
    index: Int[Tensor, "M K"]
    remainders: tuple[Float[Tensor, "M 1"], ...]
    spacing: float

    def weights(self, *orders: int) -> Float[Tensor, "M K"]:
        """What each row counts in the derivative of these orders along the axes."""
        out = self._along(0, orders[0])
        for axis in range(1, len(orders)):
            out = (out[:, :, None] * self._along(axis, orders[axis])[:, None, :]).flatten(1)
        return out

    def _along(self, axis: int, order: int) -> Float[Tensor, "M 4"]:
        t = self.remainders[axis]
        powers = [torch.tensor(row, dtype=t.dtype, device=t.device) for row in _pieces(order, self.spacing)]
        out = powers[-1].expand(t.shape[0], -1)
        for lower in reversed(powers[:-1]):
            out = lower + out * t
        return out

    def read(self, table: Float[Tensor, "R C"]) -> Float[Tensor, "M C"]:
        """The spline at every point, twice continuously differentiable by the points.

        Derivatives are splines again, so that any number may be taken; there are none by the table.
        """
        return _read(self.points, table, self, (0,) * len(self.remainders))


@lru_cache(maxsize=64)
def _pieces(order: int, spacing: float) -> tuple[tuple[float, ...], ...]:
    """Coefficients of 1, t, … in a derivative of the four pieces, a row for each power; zeros if none is left."""
    rows = [
        tuple(piece[power] * math.perm(power, order) / spacing**order for piece in _PIECES)
        for power in range(order, len(_PIECES[0]))
    ]
    return tuple(rows) or ((0.0,) * NUM_PIECES,)


class _Read(torch.autograd.Function):
    """A derivative of a spline as a function of the points."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, places: SplinePlaces, orders: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.places, ctx.orders = places, orders
        return weighted_rows(table, places.index, places.weights(*orders))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        points, table = ctx.saved_tensors
        slopes = []
        for axis in range(points.shape[1]):
            orders = tuple(order + (k == axis) for k, order in enumerate(ctx.orders))
            slopes.append((grad * _read(points, table, ctx.places, orders)).sum(1))
        return torch.stack(slopes, dim=1), None, None, None


def _read(points: Tensor, table: Tensor, places: SplinePlaces, orders: tuple[int, ...]) -> Tensor:
    out: Tensor = _Read.apply(points, table, places, orders)  # type: ignore[no-untyped-call]
    return out


def weighted_rows(
    table: Float[Tensor, "R C"], index: Int[Tensor, "M K"], weights: Float[Tensor, "M K"]
) -> Float[Tensor, "M C"]:
    """Σ_k weight_mk table[index_mk], without the rows in memory."""
    out: Tensor = embedding_bag(index, table, per_sample_weights=weights.to(table.dtype), mode="sum")
    return out


def _solve(values: Float[Tensor, "*N C"], axis: int) -> Float[Tensor, "*N C"]:
    """Coefficients c along one axis from values f at the knots: (c_{i−1} + 4 c_i + c_{i+1}) / 6 = f_i, c = f at both
    ends.
    """
    size = values.shape[axis]
    sixth = values.new_full((size - 1,), 1 / 6)
    matrix = torch.diag(values.new_full((size,), 2 / 3)) + torch.diag(sixth, 1) + torch.diag(sixth, -1)
    matrix[[0, -1]] = 0
    matrix[0, 0] = matrix[-1, -1] = 1
    moved = values.movedim(axis, 0)
    solved: Tensor = torch.linalg.solve(matrix, moved.flatten(1))
    return solved.view_as(moved).movedim(0, axis)
