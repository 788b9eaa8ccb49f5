"""Points sorted into columns along z and bins along these: where `geomol.graph.cells` looks for neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.graph.images import Images, of_structure

COLUMNS = 2  # columns per cutoff
LAYERS = 6  # bins along a column per cutoff
BINS_PER_POINT = 8  # more than this in the mean, and bins are made coarser


@dataclass(frozen=True, eq=False)
class Bins:
    """Points sorted by bin. Positions are in float32, from the corner of the grid, for a first choice.

    Attributes:
        count: number of bins along each axis, of each structure.
        width: size of a column (both ways) and of a bin along it, Å, of each structure.
        base: first bin of each structure.
        point: numbers of the points, by bin.
        xyz: their positions, by component, Å.
        home: positions of the atoms in their cells, by component, Å.
        column: the column that each atom lies in, counted along both axes.
        own: place among the sorted points of each atom itself.
        start: where each bin starts among them.
        slack: bound of the rounding error of a distance, Å.
    """

    count: Int[Tensor, "G 3"]
    width: Float[Tensor, "G 3"]
    base: Int[Tensor, " G"]
    point: Int[Tensor, " M"]
    xyz: Float[Tensor, "3 M"]
    home: Float[Tensor, "3 N"]
    column: Int[Tensor, "N 2"]
    own: Int[Tensor, " N"]
    start: Int[Tensor, " B"]
    slack: float


def sort_points(images: Images, ptr: Tensor, radius: float) -> Bins:
    """Columns and bins that are at least so wide that a radius reaches `COLUMNS` columns far."""
    points, batch = images.points, images.batch
    num_graphs = ptr.shape[0] - 1
    low, high = _corners(points, batch, num_graphs)
    width = points.new_tensor([radius / COLUMNS, radius / COLUMNS, radius / LAYERS]) * (1 + 1e-6)
    width = width.repeat(num_graphs, 1)
    limit = BINS_PER_POINT * torch.bincount(batch, minlength=num_graphs) + 1000
    while True:
        count = torch.floor((high - low) / width) + 1
        is_fine = count.prod(1) > limit
        if not bool(is_fine.any()):
            break
        width[is_fine] *= 2
    total = count.prod(1).long()
    base = total.cumsum(0) - total
    count = count.long()
    inside = points - of_structure(low, batch)
    place = (inside / of_structure(width, batch)).long()
    along = of_structure(count, batch)
    number = of_structure(base, batch) + (place[:, 0] * along[:, 1] + place[:, 1]) * along[:, 2] + place[:, 2]
    start = torch.bincount(number, minlength=int(total.sum())).cumsum(0)
    point = torch.argsort(number)
    own = torch.empty_like(point)
    own[point] = torch.arange(len(point), device=point.device)
    inside = inside.float()
    return Bins(
        count=count,
        width=width.float(),
        base=base,
        point=point,
        xyz=inside.index_select(0, point).t().contiguous(),
        home=inside.index_select(0, images.self_point).t().contiguous(),
        column=place.index_select(0, images.self_point)[:, :2],
        own=own.index_select(0, images.self_point),
        start=torch.nn.functional.pad(start, (1, 0)),
        slack=8 * torch.finfo(torch.float32).eps * float((high - low).max()),
    )


def _corners(points: Tensor, batch: Tensor, num_graphs: int) -> tuple[Tensor, Tensor]:
    """The lowest and highest coordinates of each structure."""
    if num_graphs == 1:
        low, high = points.aminmax(dim=0)
        return low[None], high[None]
    index, ends = batch[:, None].expand(-1, 3), points.new_zeros(num_graphs, 3)
    return (
        ends.scatter_reduce(0, index, points, "amin", include_self=False),
        ends.scatter_reduce(0, index, points, "amax", include_self=False),
    )
