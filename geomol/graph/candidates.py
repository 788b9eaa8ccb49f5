"""The search of `geomol.graph.cells` among sorted points: in PyTorch, by blocks of candidates, or by fused kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from geomol.errors import CapacityError
from geomol.graph.bins import COLUMNS, Bins
from geomol.graph.checks import TOO_CLOSE
from geomol.graph.images import Images, of_structure, smallest_square
from geomol.graph.native_search import ROUNDING, Closest, Pairs
from geomol.ops.backend import fused

BYTES_PER_CANDIDATE = 30  # of the lists, which hold about half of the candidates
BYTES_PER_PAIR = 44  # of the lists and of what the kernels write before they are in order
CPU_ATOMS, DEVICE_ATOMS = 1 << 12, 1 << 20  # atoms at a time
CPU_BLOCK, DEVICE_BLOCK = 1 << 17, 1 << 24  # candidates at a time: what fits into a cache, or into memory
OWN_COLUMN = (2 * COLUMNS + 1) ** 2 // 2  # of the columns around an atom, the one that it lies in


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


def search_blocks(
    images: Images, bins: Bins, batch: Int[Tensor, " N"], cutoff: float, max_bytes: int
) -> tuple[Pairs, list[Closest]]:
    """Pairs within the cutoff, and of each block of candidates the nearest that is `TOO_CLOSE`.

    Raises:
        CapacityError: the lists could take more than `max_bytes`.
    """
    num_atoms, device = len(batch), batch.device
    counts, points, close, num_candidates = [], [], [], 0
    each = DEVICE_ATOMS if batch.is_cuda else CPU_ATOMS
    for start in range(0, num_atoms, each):
        stretches = _stretches(bins, batch, cutoff * ROUNDING, start, start + each)
        candidates = stretches.length.sum(1)
        num_candidates += int(candidates.sum())
        _check_capacity(num_candidates, min(start + each, num_atoms), max_bytes)
        for block in _blocks(candidates):
            count, point, nearest = _near(images, bins, stretches, cutoff, *block)
            counts.append(count)
            points.append(point)
            close += nearest
    count, point = torch.cat(counts), torch.cat(points)
    dst = _repeated(torch.arange(num_atoms, device=device), count, len(point))
    src = images.atom.index_select(0, point)
    return (dst, src, images.shifts(dst, src, point)), close


def search_kernels(
    images: Images, bins: Bins, batch: Int[Tensor, " N"], cutoff: float, max_bytes: int
) -> tuple[Pairs, list[Closest]]:
    """`search_blocks` by fused kernels, without arrays over candidates and with lists that are as long as needed."""
    inner = cutoff / ROUNDING - bins.slack
    search = fused("cells").Search(
        (bins.xyz, bins.home, bins.column, bins.own, batch, bins.width, bins.count, bins.base, bins.start, bins.point),
        (images.home, images.atom, images.shift, None if images.shift is None else images.cell),
        columns=COLUMNS,
        reach=cutoff * ROUNDING + bins.slack,
        outer=(cutoff * ROUNDING + bins.slack) ** 2,
        inner=inner * abs(inner),
        limit=smallest_square(cutoff),
    )
    ptr = torch.nn.functional.pad(search.counts.cumsum(0), (1, 0))
    total, low = torch.stack([ptr[-1].double(), search.nearest.min().double()]).tolist()  # the host waits once
    _check_capacity(int(total), len(batch), max_bytes, BYTES_PER_PAIR)
    dst, src, shift, point = search.pairs(ptr, int(total), images.home_cell)
    limit = (TOO_CLOSE + bins.slack) ** 2
    if low >= limit:
        return (dst, src, shift), []
    close = (search.nearest < limit).index_select(0, dst).nonzero().view(-1)  # all pairs of the atoms that it may be
    return (dst, src, shift), _closest(images, point.index_select(0, close), dst.index_select(0, close))


def _stretches(bins: Bins, batch: Tensor, radius: float, start: int, stop: int) -> _Stretches:
    """Where a range of atoms looks for neighbours.

    A column whose nearest edge is d away is looked through over ±√(r² − d²).
    """
    batch = batch[start:stop]
    width, count = of_structure(bins.width, batch), of_structure(bins.count, batch)
    home, column = bins.home[:, start:stop].t(), bins.column[start:stop]
    steps = torch.arange(-COLUMNS, COLUMNS + 1, device=home.device)
    # distance to the columns in each direction, 0 inside and infinite where there are none
    beyond = (home[:, :2] - column * width[:, :2])[:, :, None] - steps * width[:, :2, None]
    gap = torch.maximum(-beyond, beyond - width[:, :2, None]).clamp_(min=0)
    place = column[:, :, None] + steps
    gap.masked_fill_((place < 0) | (place >= count[:, :2, None]), torch.inf)
    square = (radius + bins.slack) ** 2 - gap[:, 0].square()[:, :, None] - gap[:, 1].square()[:, None]  # (N, K, K)
    is_there = square >= 0
    reach = square.clamp_(min=0).sqrt_().div_(width[:, 2, None, None])
    height = (home[:, 2] / width[:, 2])[:, None, None]
    below = (height - reach).clamp_(min=0).long()
    above = reach.add_(height).minimum((count[:, 2] - 1)[:, None, None]).long()
    along_x = place[:, 0] * (count[:, 1] * count[:, 2])[:, None] + of_structure(bins.base, batch)[:, None]
    along_y = place[:, 1] * count[:, 2, None]
    first_bin = torch.where(is_there, along_x[:, :, None] + along_y[:, None], 0)
    first = bins.start.index_select(0, below.add_(first_bin).view(-1)).view(is_there.shape)
    last = bins.start[1:].index_select(0, above.add_(first_bin).view(-1)).view(is_there.shape)
    return _Stretches(start, first.flatten(1), (last - first).mul_(is_there).flatten(1))


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
    images: Images, bins: Bins, stretches: _Stretches, cutoff: float, start: int, stop: int
) -> tuple[Tensor, Tensor, list[Closest]]:
    """Neighbours of some atoms of the range.

    How many each has; which points they are, ascending for each atom; and the closest pair, if it is `TOO_CLOSE`.
    """
    length = stretches.length[start:stop]
    each = length.sum(1)
    total = int(each.sum())
    ends = length.reshape(-1).cumsum(0)
    place = _repeated(stretches.first[start:stop].reshape(-1) - ends + length.reshape(-1), length.reshape(-1), total)
    place += torch.arange(total, device=place.device)
    first, last = start + stretches.atom, stop + stretches.atom
    square = place.new_zeros(total, dtype=bins.xyz.dtype)
    for points, atoms in zip(bins.xyz, bins.home[:, first:last], strict=True):
        square += points.index_select(0, place).sub_(_repeated(atoms, each, total)).square_()
    # the candidate that is the atom itself lies in the middle column
    own = ends.view(len(each), -1)[:, OWN_COLUMN - 1] + bins.own[first:last] - stretches.first[start:stop, OWN_COLUMN]
    square[own] = torch.inf
    rows = _repeated(torch.arange(first, last, device=place.device), each, total)
    chosen = _below(square, (outer := cutoff * ROUNDING + bins.slack) ** 2)
    near = square.index_select(0, chosen)
    low, high = near.aminmax() if len(near) else (torch.inf, 0.0)
    inner = cutoff / ROUNDING - bins.slack
    if high >= inner * abs(inner):  # in very long boxes every pair is in doubt
        doubtful = chosen[_below(-near, -inner * abs(inner))]
        is_outside = images.exact_square(bins.point[place[doubtful]], rows[doubtful]) >= smallest_square(cutoff)
        square[doubtful[is_outside]] = torch.inf
        chosen = _below(square, outer**2)
    row, point = rows.index_select(0, chosen), bins.point.index_select(0, place.index_select(0, chosen))
    too_close = _closest(images, point, row) if low < (TOO_CLOSE + bins.slack) ** 2 else []
    key = _sorted(row.mul_(images.num_points).add_(point))
    row_key = torch.arange(first, last + 1, device=key.device) * images.num_points
    count = torch.searchsorted(key, row_key).diff()
    return count, key.sub_(_repeated(row_key[:-1], count, len(key))), too_close


def _closest(images: Images, point: Tensor, dst: Tensor) -> list[Closest]:
    """The closest pair, if that is `TOO_CLOSE`."""
    square = images.exact_square(point, dst)
    if len(square) == 0:
        return []
    nearest = int(square.argmin())
    distance = math.sqrt(float(square[nearest]))
    return [(distance, int(dst[nearest]), int(images.atom[point[nearest]]))] if distance < TOO_CLOSE else []


def _repeated(values: Tensor, counts: Tensor, total: int) -> Tensor:
    """Each value as often as its count says."""
    if values.is_cuda:
        return torch.repeat_interleave(values, counts, output_size=total)
    # NumPy is several times faster at this, at finding what is set and at sorting integers than PyTorch is on a CPU
    return torch.from_numpy(np.repeat(values.numpy(), counts.numpy()))


def _below(values: Tensor, limit: float) -> Tensor:
    """Where the values are below a limit."""
    if values.is_cuda:
        return (values < limit).nonzero().view(-1)
    return torch.from_numpy(np.flatnonzero(values.numpy() < np.float32(limit)))


def _sorted(keys: Tensor) -> Tensor:
    """Integers in ascending order."""
    return torch.sort(keys)[0] if keys.is_cuda else torch.from_numpy(np.sort(keys.numpy()))


def _check_capacity(pairs: int, atoms: int, max_bytes: int, each: int = BYTES_PER_CANDIDATE) -> None:
    size = pairs * each
    if size > max_bytes:
        raise CapacityError(
            f"up to {pairs:.3g} neighbour pairs of {atoms} atoms could need {size / 1024**3:.3g} GiB",
            expected=f"at most {max_bytes / 1024**3:.3g} GiB",
            remedy="use a smaller cutoff or structure, or raise max_bytes; neighbours are never dropped",
        )
