"""Neighbour lists in PyTorch for large, periodic and batched structures, on any device.

Atoms near a face of their cell are copied to the other side, as often as the cutoff asks, so that what follows knows
nothing of periodicity: it sorts all points by columns along z, and looks for each atom through short stretches of the
columns around it. Cells of any shape, also smaller than the cutoff, need nothing special.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.errors import CapacityError, InputError
from geomol.graph.capacity import DEFAULT_MAX_BYTES
from geomol.graph.checks import AXES, MAX_POSITION, check_cutoff
from geomol.graph.images import Images, periodic_images
from geomol.graph.record import Graph
from geomol.ops import segment_index

BYTES_PER_CANDIDATE = 30  # of the lists, which hold about half of the candidates
CPU_ATOMS, DEVICE_ATOMS = 1 << 12, 1 << 20  # atoms at a time
CPU_BLOCK, DEVICE_BLOCK = 1 << 17, 1 << 24  # candidates at a time: what fits into a cache, or into memory
COLUMNS = 2  # columns per cutoff
LAYERS = 6  # bins along a column per cutoff
BINS_PER_POINT = 8  # more than this in the mean, and bins are made coarser
ROUNDING = 1 + 1e-9  # searches look this much farther; the radius itself is applied to the pairs they find

Pairs = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class _Bins:
    """Points sorted by bin.

    Attributes:
        low, count: corner of the grid (Å) and number of bins along each axis, of each structure.
        width: size of a column (both ways) and of a bin along it, Å, of each structure.
        base: first bin of each structure.
        point: numbers of the points, by bin.
        xyz: their positions, by component, Å.
        home: positions of the atoms in their cells, by component, Å.
        own: place among the sorted points of each atom itself.
        start: where each bin starts among them.
    """

    low: Float[Tensor, "G 3"]
    count: Int[Tensor, "G 3"]
    width: Float[Tensor, "G 3"]
    base: Int[Tensor, " G"]
    point: Int[Tensor, " M"]
    xyz: Float[Tensor, "3 M"]
    home: Float[Tensor, "3 N"]
    own: Int[Tensor, " N"]
    start: Int[Tensor, " B"]


@dataclass(frozen=True, eq=False)
class _Stretches:
    """For each atom of a range and each of the 25 columns around it, a stretch of the sorted points.

    Attributes:
        atom: the first of the range.
        first, length: of each stretch.
    """

    atom: int
    first: Int[Tensor, "N K"]
    length: Int[Tensor, "N K"]


def cell_pairs(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    cutoff: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Pairs:
    """All pairs with |pos[src] + shift @ cell − pos[dst]| < cutoff within each structure.

    The same list as `neighbour_list`, for all structures at once and without a loop over them: both directions, an
    atom with its own images but not with itself, sorted by (dst, src, shift). Found in float64.

    Args:
        pos: Å; atoms may lie any number of images away.
        ptr: first atom of each structure.
        cell: lattice vectors as rows, Å; rows of open directions are ignored.
        pbc: periodic directions.
        cutoff: Å.
        max_bytes: memory that the lists may take.

    Returns:
        dst (E,), src (E,), both counted over the batch, and shift (E, 3); int64.

    Raises:
        ConfigError: the cutoff is not positive and finite.
        InputError: a position that is not finite.
        CapacityError: the list could exceed `max_bytes`; it is never truncated.
    """
    cutoff = check_cutoff(cutoff)
    pos = pos.detach().double()
    _check_positions(pos)
    batch = segment_index(ptr, pos.shape[0])
    images = periodic_images(pos, batch, cell.detach().double(), pbc, cutoff * ROUNDING)
    bins = _sort_points(images, ptr, cutoff * ROUNDING)
    counts, points, num_candidates = [], [], 0
    each = DEVICE_ATOMS if pos.is_cuda else CPU_ATOMS
    for start in range(0, len(pos), each):
        stretches = _stretches(images, bins, batch, cutoff * ROUNDING, start, start + each)
        candidates = stretches.length.sum(1)
        num_candidates += int(candidates.sum())
        _check_capacity(num_candidates, min(start + each, len(pos)), max_bytes)
        for block in _blocks(candidates):
            found = _near(images, bins, stretches, cutoff, *block)
            counts.append(found[0])
            points.append(found[1])
    count, point = torch.cat(counts), torch.cat(points)
    dst = torch.repeat_interleave(torch.arange(len(pos), device=pos.device), count, output_size=len(point))
    src = images.atom.index_select(0, point)
    return dst, src, images.shifts(dst, src, point)


def cell_graph(
    pos: Float[Tensor, "N 3"],
    numbers: Int[Tensor, " N"],
    ptr: Int[Tensor, " P"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    cutoff: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Graph:
    """The graph of structures, equal to `build_graph` of them, made where the positions are; errors of `cell_pairs`."""
    dst, src, shift = cell_pairs(pos, ptr, cell, pbc, cutoff, max_bytes=max_bytes)
    counts = torch.bincount(dst, minlength=pos.shape[0])
    return Graph(
        pos=pos,
        numbers=numbers,
        edge_index=torch.stack([src, dst]),
        edge_ptr=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        cell_shift=shift,
        cell=cell,
        pbc=pbc,
        batch=segment_index(ptr, pos.shape[0]),
        ptr=ptr,
        cutoff=cutoff,
    )


def _sort_points(images: Images, ptr: Tensor, radius: float) -> _Bins:
    """Columns and bins that are at least so wide that a radius reaches two columns far."""
    points, batch = images.points, images.batch
    num_graphs = ptr.shape[0] - 1
    index = batch[:, None].expand(-1, 3)
    low = points.new_zeros(num_graphs, 3).scatter_reduce(0, index, points, "amin", include_self=False)
    high = points.new_zeros(num_graphs, 3).scatter_reduce(0, index, points, "amax", include_self=False)
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
    place = torch.floor((points - low[batch]) / width[batch]).long()
    number = base[batch] + (place[:, 0] * count[batch, 1] + place[:, 1]) * count[batch, 2] + place[:, 2]
    start = torch.bincount(number, minlength=int(total.sum())).cumsum(0)
    point = torch.argsort(number)
    place = torch.empty_like(point)
    place[point] = torch.arange(len(point), device=point.device)
    return _Bins(
        low=low,
        count=count,
        width=width,
        base=base,
        point=point,
        xyz=points[point].t().contiguous(),
        home=images.home.t().contiguous(),
        own=place[images.self_point],
        start=torch.nn.functional.pad(start, (1, 0)),
    )


def _stretches(images: Images, bins: _Bins, batch: Tensor, radius: float, start: int, stop: int) -> _Stretches:
    """Where a range of atoms looks for neighbours.

    A column whose nearest edge is d away is looked through over ±√(r² − d²).
    """
    batch = batch[start:stop]
    low, width, count = bins.low[batch], bins.width[batch], bins.count[batch]
    u = (images.home[start:stop] - low) / width
    steps = torch.arange(-COLUMNS, COLUMNS + 1, device=u.device)
    place = torch.floor(u[:, :2, None]) + steps  # (N, 2, 5)
    # distance to the column in each direction, 0 inside
    gap = torch.maximum(place - u[:, :2, None], u[:, :2, None] - place - 1).clamp_(min=0) * width[:, :2, None]
    is_inside = (place >= 0) & (place < count[:, :2, None])
    square = radius * radius - gap[:, 0, :, None].square() - gap[:, 1, None].square()  # (N, 5, 5)
    is_there = is_inside[:, 0, :, None] & is_inside[:, 1, None] & (square >= 0)
    reach = square.clamp_(min=0).sqrt_() / width[:, 2, None, None]
    top = (count[:, 2] - 1)[:, None, None].to(u.dtype)
    height = u[:, 2, None, None]
    below = torch.floor(height - reach).clamp_(min=0).minimum(top).long()
    above = torch.floor(height + reach).clamp_(min=0).minimum(top).long() + 1
    place = place.long()
    column = (place[:, 0, :, None] * count[:, 1, None, None] + place[:, 1, None]) * count[:, 2, None, None]
    column += bins.base[batch][:, None, None]
    first, last = (
        bins.start[torch.where(is_there, column + end, 0).reshape(-1)].view(len(u), -1) for end in (below, above)
    )
    return _Stretches(start, first, last - first)


def _blocks(candidates: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges of atoms with about as many candidates each as a block holds."""
    block = DEVICE_BLOCK if candidates.is_cuda else CPU_BLOCK
    ends = candidates.cumsum(0)
    cuts = torch.arange(block, int(ends[-1]) + block, block, device=ends.device)
    stops = torch.searchsorted(ends, cuts).add_(1).clamp_(max=len(ends)).tolist()
    start = 0
    for stop in [*stops, len(candidates)]:
        if stop > start:
            yield start, stop
        start = stop


def _near(
    images: Images, bins: _Bins, stretches: _Stretches, cutoff: float, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Neighbours of some atoms of the range: how many each has, and which points they are, ascending for each atom."""
    length = stretches.length[start:stop].reshape(-1)
    base = stretches.first[start:stop].reshape(-1) - length.cumsum(0) + length
    start, stop = start + stretches.atom, stop + stretches.atom
    total = int(length.sum())
    place = torch.repeat_interleave(base, length, output_size=total)
    place += torch.arange(total, device=place.device)
    each = length.view(stop - start, -1).sum(1)
    row = torch.repeat_interleave(torch.arange(stop - start, device=place.device), each, output_size=total)
    square = place.new_zeros(total, dtype=bins.xyz.dtype)
    for points, atoms in zip(bins.xyz, bins.home[:, start:stop], strict=True):
        square += points.index_select(0, place).sub_(atoms.index_select(0, row)).square_()
    near = square < (cutoff * ROUNDING) ** 2
    near &= place != bins.own[start:stop].index_select(0, row)
    chosen = _places(near)
    row, point = row.index_select(0, chosen), bins.point.index_select(0, place.index_select(0, chosen))
    if bool((square.index_select(0, chosen) > (cutoff / ROUNDING) ** 2).any()):
        keep = images.exact_distance(point, row + start) < cutoff
        row, point = row[keep], point[keep]
    key = _sorted(row * images.num_points + point)
    count = torch.bincount(row, minlength=stop - start)
    return count, key - torch.repeat_interleave(count, output_size=len(key)) * images.num_points


def _places(mask: Tensor) -> Tensor:
    """Where the mask is set."""
    # NumPy is several times faster at this, and at sorting integers, than PyTorch is on a CPU
    return mask.nonzero().view(-1) if mask.is_cuda else torch.from_numpy(np.flatnonzero(mask.numpy()))


def _sorted(keys: Tensor) -> Tensor:
    """Integers in ascending order."""
    return torch.sort(keys)[0] if keys.is_cuda else torch.from_numpy(np.sort(keys.numpy()))


def _check_positions(pos: Tensor) -> None:
    good = pos.abs() <= MAX_POSITION  # False for NaN
    if bool(good.all()):
        return
    atom, axis = (~good).nonzero()[0].tolist()
    raise InputError(
        f"position of atom {atom} along {AXES[axis]} is not usable",
        expected=f"a finite number of Å, at most {MAX_POSITION:g}",
        got=repr(float(pos[atom, axis])),
    )


def _check_capacity(candidates: int, atoms: int, max_bytes: int) -> None:
    size = candidates * BYTES_PER_CANDIDATE
    if size > max_bytes:
        raise CapacityError(
            f"up to {candidates:.3g} neighbour pairs of {atoms} atoms could need {size / 1024**3:.3g} GiB",
            expected=f"at most {max_bytes / 1024**3:.3g} GiB",
            remedy="use a smaller cutoff or structure, or raise max_bytes; neighbours are never dropped",
        )
