"""Neighbour lists: all pairs within a cutoff, periodic images included, never capped.

Four ways lead to the same list. Small systems are tabulated whole (`geomol.graph.tables`) and larger ones go to our own
cell list (`geomol.graph.cells`), which finds the pairs in order. Where that is not in C because there is no compiler,
systems of up to about 200 atoms go to vesin's. Boxes with far more bins than atoms, where both are slow, go to a k-d
tree (both in `geomol.graph.borrowed`). For these two, positions are wrapped into the cell and open directions get a box
of their own, so that none meets a hard case. All but the table decide about pairs at the cutoff to the last bit in the
same way.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from geomol.errors import CapacityError
from geomol.graph.borrowed import sorted_pairs, tree_pairs, vesin_pairs
from geomol.graph.capacity import DEFAULT_MAX_BYTES, check_capacity
from geomol.graph.cells import search_cells
from geomol.graph.checks import TOO_CLOSE, check_cell, check_closest, check_cutoff, check_positions, complete_cell
from geomol.graph.images import image_squares, smallest_square, wrapped_atoms
from geomol.graph.native_search import cells_in_c
from geomol.graph.tables import Found, Pairs, closest_pair, tabulate, tabulate_molecule

SMALL_TABLE = 6_000  # distances; up to here one table is faster than a search
SPARSE_BINS = 25  # bins per atom from which a tree is faster than a cell list
CELL_LIST_ATOMS = 200  # from here on our cell list is faster than vesin and sorting
C_ATOMS = 40  # the same for our cell list in C


def neighbour_list(
    pos: ArrayLike,
    cell: ArrayLike,
    pbc: ArrayLike,
    cutoff: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    device: torch.device | str | None = None,
) -> Pairs:
    """All pairs with |pos[src] + shift @ cell − pos[dst]| < cutoff.

    Each pair is listed in both directions, an atom pairs with its own images but not with itself, and the list is
    sorted by (dst, src, shift), so that equal structures give equal lists.

    Args:
        pos: (N, 3), Å; atoms may lie any number of images away.
        cell: (3, 3) lattice vectors as rows, Å, of either handedness; rows of open directions are ignored.
        pbc: (3,) periodic directions.
        cutoff: Å.
        max_bytes: memory that the search may take.
        device: where systems of `CELL_LIST_ATOMS` atoms and more are searched; the CPU by default.
            On the CPU a search in C is used where there is a compiler, unless `GEOMOL_NATIVE=0` is set.

    Returns:
        dst (E,), src (E,), shift (E, 3), all int64.

    Raises:
        ConfigError: if the cutoff is not positive and finite.
        InputError: for unusable positions or cells, no atoms, or coincident atoms.
        CapacityError: if the list would exceed `max_bytes`; it is never truncated.
    """
    pos = np.asarray(pos, dtype=np.float64)
    cell, pbc = np.asarray(cell, dtype=np.float64), np.asarray(pbc, dtype=bool)
    return find_pairs(pos, cell, pbc, check_cutoff(cutoff), max_bytes=max_bytes, device=device)


def pair_tensors(
    pos: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
    *,
    device: torch.device | str,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """`neighbour_list` as tensors on a device, where those of `CELL_LIST_ATOMS` atoms and more never leave it."""
    cutoff = check_cutoff(cutoff)
    if _is_for_device(pos, device):
        return _on_device(pos, cell, pbc, cutoff, max_bytes, None, device)
    dst, src, shift = (torch.from_numpy(x).to(device) for x in find_pairs(pos, cell, pbc, cutoff, max_bytes=max_bytes))
    return dst, src, shift


def find_pairs(
    pos: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    where: str | None = None,
    device: torch.device | str | None = None,
) -> Pairs:
    """`neighbour_list` of arrays with a checked cutoff; errors say `where`."""
    if _is_for_device(pos, device):
        dst, src, shift = (x.cpu().numpy() for x in _on_device(pos, cell, pbc, cutoff, max_bytes, where, device))
        return dst, src, shift
    check_positions(pos, where)
    check_cell(cell, pbc, where)
    radius = max(cutoff, TOO_CLOSE)  # atoms too close are noticed at any cutoff
    if pbc.any():
        cell = np.where(pbc[:, None], cell, 0.0)
        (dst, src, shift), closest = _search(pos, cell, pbc, radius, max_bytes, where)
    elif len(pos) ** 2 <= SMALL_TABLE:
        (dst, src, shift), closest = tabulate_molecule(pos, radius)
    else:
        pos, cell = pos - pos.mean(0), np.zeros((3, 3))
        (dst, src, shift), closest = _search(pos, cell, pbc, radius, max_bytes, where)
    if closest is not None:
        check_closest(*closest, where)
    if radius > cutoff:
        keep = _distances(pos, cell, dst, src, shift) < cutoff
        dst, src, shift = dst[keep], src[keep], shift[keep]
    return dst, src, shift


def _search(
    pos: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    radius: float,
    max_bytes: int,
    where: str | None,
) -> Found:
    """Pairs by the way that suits their number and box."""
    box = complete_cell(cell, pbc)
    home = np.floor(pos @ np.linalg.inv(box)) * pbc  # image that each atom lies in
    inside = pos - home @ cell
    frac = inside @ np.linalg.inv(box)
    for axis in np.flatnonzero(~pbc):
        # an open direction gets a box as long as its atoms reach, which no pair can cross
        length = float(np.ptp(frac[:, axis])) + 2 * radius + 1.0
        inside = inside - (frac[:, axis].min() - radius) * box[axis]
        box[axis] *= length
    heights = 1 / np.linalg.norm(np.linalg.inv(box), axis=0)
    images = np.where(pbc, np.ceil(radius / heights), 0)  # on either side
    is_sparse = np.maximum(1, heights / radius).prod() > SPARSE_BINS * len(pos)
    is_small = len(pos) ** 2 * float(np.prod(2 * images + 1)) <= SMALL_TABLE
    in_c = len(pos) >= C_ATOMS and cells_in_c() is not None
    is_for_cells = not is_small and not is_sparse and (in_c or len(pos) >= CELL_LIST_ATOMS)
    if not (in_c and is_for_cells):  # the search in C counts what it finds
        check_capacity(inside, box, images, radius, max_bytes, where)
    if is_for_cells:
        try:
            return _cells(pos, cell, pbc, radius, max_bytes)
        except CapacityError:
            check_capacity(inside, box, images, radius, max_bytes, where)  # says how many there would be
            raise
    if is_small:
        (dst, src, shift), closest = tabulate(inside, box, images, radius)
        return (dst, src, _unwrapped(dst, src, shift, home)), closest
    pairs = tree_pairs(inside, box, images, radius) if is_sparse else vesin_pairs(inside, box, pbc, radius)
    dst, src, shift = sorted_pairs(*pairs, len(pos))
    return _within(pos, cell, pbc, (dst, src, _unwrapped(dst, src, shift, home)), radius)


def _unwrapped(
    dst: NDArray[np.int64], src: NDArray[np.int64], shift: NDArray[np.int64], home: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Shifts for positions as they were given. They move by the same for all images of a pair: the order stays."""
    if not home.any():
        return shift
    away = home.astype(np.int64)
    return shift + away[dst] - away[src]


def _within(
    pos: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], pairs: Pairs, radius: float
) -> Found:
    """Those pairs that are inside the radius, decided as our cell list does, to the last bit."""
    dst, src, shift = pairs
    points, ptr, box, periodic = _one_structure(pos, cell, pbc)
    wrapped = wrapped_atoms(points, ptr.new_zeros(len(pos)), box, periodic, radius)
    receivers, senders = torch.from_numpy(dst), torch.from_numpy(src)
    steps = torch.from_numpy(shift)
    if wrapped.home_cell is not None:
        away = wrapped.home_cell.long()
        steps = steps + away.index_select(0, senders) - away.index_select(0, receivers)
    vec = wrapped.home.index_select(0, senders) - wrapped.home.index_select(0, receivers)
    square = image_squares(vec, steps, wrapped.cell).numpy()
    keep = square < smallest_square(radius)
    dst, src, shift = pairs if keep.all() else (x[keep] for x in pairs)
    return (dst, src, shift), closest_pair(square[keep], dst, src)


def _distances(
    pos: NDArray[np.float64],
    box: NDArray[np.float64],
    dst: NDArray[np.int64],
    src: NDArray[np.int64],
    shift: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Lengths of the pairs; a pair and its opposite get exactly opposite vectors, so both are inside or neither is."""
    lengths = _lengths(*(torch.from_numpy(array) for array in (pos, box, dst, src, shift)))
    return np.asarray(lengths.numpy())


def _lengths(points: Tensor, box: Tensor, dst: Tensor, src: Tensor, shift: Tensor) -> Tensor:
    vec = points.index_select(0, src) - points.index_select(0, dst)
    vec += shift.double() @ box
    return vec.square_().sum(1).sqrt_()


def _cells(
    pos: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], radius: float, max_bytes: int
) -> Found:
    """Pairs by our cell list, which sorts them and wraps positions itself."""
    (dst, src, shift), close = search_cells(*_one_structure(pos, cell, pbc), radius, max_bytes=max_bytes)
    return (dst.numpy(), src.numpy(), shift.numpy()), min(close, default=None)


def _one_structure(
    pos: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions, ptr, cell and pbc of a batch of one; copies, for not every view suits PyTorch."""
    arrays = pos.copy(), np.array([0, len(pos)]), cell.copy()[None], pbc.copy()[None]
    points, ptr, box, periodic = (torch.from_numpy(array) for array in arrays)
    return points, ptr, box, periodic


def _is_for_device(pos: NDArray[np.float64], device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type != "cpu" and len(pos) >= CELL_LIST_ATOMS


def _on_device(
    pos: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
    max_bytes: int,
    where: str | None,
    device: torch.device | str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `find_pairs` finds, searched on the device by our cell list and left there."""
    check_positions(pos, where)
    check_cell(cell, pbc, where)
    radius = max(cutoff, TOO_CLOSE)
    if not pbc.any():
        pos = pos - pos.mean(0)
    points, ptr, box, periodic = (x.to(device) for x in _one_structure(pos, np.where(pbc[:, None], cell, 0.0), pbc))
    try:
        (dst, src, shift), close = search_cells(points, ptr, box, periodic, radius, max_bytes=max_bytes)
    except CapacityError as error:
        raise CapacityError(error.what, where=where, expected=error.expected, remedy=error.remedy) from None
    if close:
        check_closest(*min(close), where)
    if radius > cutoff:
        keep = _lengths(points, box[0], dst, src, shift) < cutoff
        dst, src, shift = dst[keep], src[keep], shift[keep]
    return dst, src, shift
