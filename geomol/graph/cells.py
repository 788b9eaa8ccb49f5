"""Neighbour lists in PyTorch for large, periodic and batched structures, on any device.

Atoms near a face of their cell are copied to the other side, as often as the cutoff asks, so that what follows knows
nothing of periodicity: it sorts all points by columns along z, and looks for each atom through short stretches of the
columns around it. Cells of any shape, also smaller than the cutoff, need nothing special.

On a CPU, where the machine has a C compiler, `geomol.graph.native` gives the same list several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.errors import CapacityError, InputError
from geomol.graph.bins import COLUMNS, Bins, sort_points
from geomol.graph.capacity import DEFAULT_MAX_BYTES
from geomol.graph.checks import AXES, MAX_POSITION, TOO_CLOSE, check_cutoff
from geomol.graph.images import Images, of_structure, periodic_images, smallest_square
from geomol.graph.native.search import Closest, Pairs, cells_in_c, native_pairs
from geomol.graph.record import Graph
from geomol.ops import segment_index

BYTES_PER_CANDIDATE = 30  # of the lists, which hold about half of the candidates
CPU_ATOMS, DEVICE_ATOMS = 1 << 12, 1 << 20  # atoms at a time
CPU_BLOCK, DEVICE_BLOCK = 1 << 17, 1 << 24  # candidates at a time: what fits into a cache, or into memory
OWN_COLUMN = (2 * COLUMNS + 1) ** 2 // 2  # of the columns around an atom, the one that it lies in
ROUNDING = 1 + 1e-9  # searches look this much farther; the radius itself is applied to the pairs they find


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
    pos = pos.detach().double()
    _check_positions(pos)
    return search_cells(pos, ptr, cell, pbc, check_cutoff(cutoff), max_bytes=max_bytes)[0]


def search_cells(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    cutoff: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> tuple[Pairs, list[Closest]]:
    """`cell_pairs` of checked positions in float64, and the pairs that are nearer than `TOO_CLOSE`, one of a block."""
    cell = cell.detach().double()
    if pos.device.type == "cpu" and (search := cells_in_c()) is not None:
        pairs, closest = native_pairs(search, pos, ptr, cell, pbc, cutoff, max_bytes=max_bytes)
        return pairs, [] if closest is None else [closest]
    batch = segment_index(ptr, pos.shape[0])
    images = periodic_images(pos, batch, cell, pbc, cutoff * ROUNDING)
    bins = sort_points(images, ptr, cutoff * ROUNDING)
    counts, points, close, num_candidates = [], [], [], 0
    each = DEVICE_ATOMS if pos.is_cuda else CPU_ATOMS
    for start in range(0, len(pos), each):
        stretches = _stretches(bins, batch, cutoff * ROUNDING, start, start + each)
        candidates = stretches.length.sum(1)
        num_candidates += int(candidates.sum())
        _check_capacity(num_candidates, min(start + each, len(pos)), max_bytes)
        for block in _blocks(candidates):
            count, point, nearest = _near(images, bins, stretches, cutoff, *block)
            counts.append(count)
            points.append(point)
            close += nearest
    count, point = torch.cat(counts), torch.cat(points)
    dst = _repeated(torch.arange(len(pos), device=pos.device), count, len(point))
    src = images.atom.index_select(0, point)
    return (dst, src, images.shifts(dst, src, point)), close


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
