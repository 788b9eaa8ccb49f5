"""Fused kernels of the neighbour search: what `geomol.graph.cells` does in PyTorch, without arrays over candidates.

One program owns one atom. It works out where the atom looks for neighbours, counts them, and once all rows have their
place writes them down; a last kernel puts each row in order. Nothing depends on which program comes first.

Import only where a kernel runs (`geomol.ops.backend.fused`): this needs Triton.
"""

# no `from __future__ import annotations`: Triton reads the annotations of a kernel; text it leaves alone
from typing import Any

import torch
from torch import Tensor

from geomol.ops.triton_jit import constexpr, jit, launch, tl

STRETCHES = 32  # the 25 columns around an atom, and some of no length
TILE = 4  # candidates of each stretch that a program holds at once: with 8, too few programs fit beside each other
BLOCK = 32  # neighbours of a row that are compared with as many others


@jit
def _stretches(
    atom: "Any",
    home: "Any",
    num_atoms: "Any",
    column: "Any",
    width: "Any",
    count: "Any",
    base: "Any",
    start: "Any",
    reach: "Any",
    COLUMNS: constexpr,
    STRETCHES: constexpr,
) -> "Any":
    """First point and number of points of the stretch of each column around the atom."""
    number = tl.arange(0, STRETCHES)
    step_x, step_y = number // (2 * COLUMNS + 1) - COLUMNS, number % (2 * COLUMNS + 1) - COLUMNS
    x, y, z = tl.load(home + atom), tl.load(home + num_atoms + atom), tl.load(home + 2 * num_atoms + atom)
    wide, high = tl.load(width), tl.load(width + 2)
    num_y, num_z = tl.load(count + 1), tl.load(count + 2)
    column_x, column_y = tl.load(column + 2 * atom), tl.load(column + 2 * atom + 1)
    place_x, place_y = column_x + step_x, column_y + step_y
    there = (step_x <= COLUMNS) & (place_x >= 0) & (place_x < tl.load(count)) & (place_y >= 0) & (place_y < num_y)
    beyond_x = x - column_x.to(tl.float32) * wide - step_x.to(tl.float32) * wide
    beyond_y = y - column_y.to(tl.float32) * wide - step_y.to(tl.float32) * wide
    gap_x = tl.maximum(tl.maximum(-beyond_x, beyond_x - wide), 0.0)
    gap_y = tl.maximum(tl.maximum(-beyond_y, beyond_y - wide), 0.0)
    square = reach * reach - gap_x * gap_x - gap_y * gap_y
    there = there & (square >= 0)
    half = tl.sqrt_rn(tl.maximum(square, 0.0)) / high
    height = z / high
    below = tl.maximum(height - half, 0.0).to(tl.int64)
    above = tl.minimum(height + half, (num_z - 1).to(tl.float32)).to(tl.int64)
    first_bin = tl.load(base) + (place_x * num_y + place_y) * num_z
    first = tl.load(start + first_bin + below, mask=there, other=0)
    last = tl.load(start + first_bin + above + 1, mask=there, other=0)
    return first.to(tl.int32), tl.where(there, last - first, 0).to(tl.int32)


@jit
def search_kernel(
    xyz: "Any",
    home: "Any",
    column: "Any",
    own: "Any",
    batch: "Any",
    width: "Any",
    count: "Any",
    base: "Any",
    start: "Any",
    point: "Any",
    origin: "Any",
    atom_of: "Any",
    shift: "Any",
    cell: "Any",
    limit: "Any",
    found: "Any",
    nearest: "Any",
    chosen: "Any",
    num_atoms: "Any",
    num_points: "Any",
    reach: "Any",
    outer: "Any",
    inner: "Any",
    HAS_IMAGES: constexpr,
    IS_WRITING: constexpr,
    COLUMNS: constexpr,
    STRETCHES: constexpr,
    TILE: constexpr,
) -> None:
    """Counts the points near each atom, and the square of the nearest; or, `IS_WRITING`, writes which they are."""
    atom = tl.program_id(0).to(tl.int64)
    graph = tl.load(batch + atom)
    width, count, base = width + 3 * graph, count + 3 * graph, base + graph
    first, length = _stretches(atom, home, num_atoms, column, width, count, base, start, reach, COLUMNS, STRETCHES)
    x, y, z = tl.load(home + atom), tl.load(home + num_atoms + atom), tl.load(home + 2 * num_atoms + atom)
    itself = tl.load(own + atom).to(tl.int32)
    filled = tl.load(found + atom) if IS_WRITING else tl.zeros((), dtype=tl.int64)
    low = tl.full((), float("inf"), dtype=tl.float32)
    for begin in range(0, tl.max(length, axis=0), TILE):
        ahead = begin + tl.arange(0, TILE)
        place = first[:, None] + ahead[None, :]
        listed = (ahead[None, :] < length[:, None]) & (place != itself)
        dx = tl.load(xyz + place, mask=listed, other=0.0) - x
        dy = tl.load(xyz + num_points + place, mask=listed, other=0.0) - y
        dz = tl.load(xyz + 2 * num_points + place, mask=listed, other=0.0) - z
        square = dx * dx + dy * dy + dz * dz
        near = listed & (square < outer)
        doubtful = near & (square >= inner)
        if tl.max(tl.max(doubtful.to(tl.int32), axis=1), axis=0) > 0:
            who = tl.load(point + place, mask=doubtful, other=0).to(tl.int32)
            whose = tl.load(atom_of + who, mask=doubtful, other=0).to(tl.int32)
            exact = tl.zeros(square.shape, dtype=tl.float64)
            for axis in tl.static_range(3):
                part = tl.load(origin + 3 * whose + axis, mask=doubtful, other=0.0) - tl.load(origin + 3 * atom + axis)
                if HAS_IMAGES:
                    lattice = cell + 9 * graph + axis
                    moved = tl.load(shift + 3 * who, mask=doubtful, other=0).to(tl.float64) * tl.load(lattice)
                    moved += tl.load(shift + 3 * who + 1, mask=doubtful, other=0).to(tl.float64) * tl.load(lattice + 3)
                    moved += tl.load(shift + 3 * who + 2, mask=doubtful, other=0).to(tl.float64) * tl.load(lattice + 6)
                    part += moved
                exact += part * part
            near = near & ((square < inner) | (exact < tl.load(limit)))
        one = near.to(tl.int32)
        each = tl.sum(one, axis=1)
        if IS_WRITING:
            before = tl.cumsum(each, axis=0) - each
            to = filled + before[:, None] + tl.cumsum(one, axis=1) - 1
            who = tl.load(point + place, mask=near, other=0)
            tl.store(chosen + to, who.to(tl.int32), mask=near)
        else:
            low = tl.minimum(low, tl.min(tl.min(tl.where(near, square, float("inf")), axis=1), axis=0))
        filled += tl.sum(each, axis=0)
    if not IS_WRITING:
        tl.store(found + atom, filled)
        tl.store(nearest + atom, low)


@jit
def order_kernel(
    chosen: "Any",
    ptr: "Any",
    atom_of: "Any",
    shift: "Any",
    home_cell: "Any",
    dst: "Any",
    src: "Any",
    moved: "Any",
    HAS_IMAGES: constexpr,
    BLOCK: constexpr,
) -> None:
    """Writes receivers, senders and shifts of one row by ascending points, each to the place that its rank says."""
    row = tl.program_id(0).to(tl.int64)
    first, last = tl.load(ptr + row), tl.load(ptr + row + 1)
    for begin in range(first, last, BLOCK):
        mine = begin + tl.arange(0, BLOCK)
        listed = mine < last
        who = tl.load(chosen + mine, mask=listed, other=0)
        rank = tl.zeros((BLOCK,), dtype=tl.int64)
        for other in range(first, last, BLOCK):
            theirs = other + tl.arange(0, BLOCK)
            rival = tl.load(chosen + theirs, mask=theirs < last, other=2147483647)
            rank += tl.sum((rival[None, :] < who[:, None]).to(tl.int64), axis=1)
        place = first + rank
        whose = tl.load(atom_of + who, mask=listed, other=0)
        tl.store(dst + place, tl.zeros_like(rank) + row, mask=listed)
        tl.store(src + place, whose, mask=listed)
        for axis in tl.static_range(3):
            step = tl.zeros_like(rank)
            if HAS_IMAGES:
                step = tl.load(shift + 3 * who.to(tl.int64) + axis, mask=listed, other=0)
                step -= tl.load(home_cell + 3 * whose + axis, mask=listed, other=0)
                step += tl.load(home_cell + 3 * row + axis)
            tl.store(moved + 3 * place + axis, step, mask=listed)


class Search:
    """A search of all atoms at once, in two passes, so that its lists are of the size they need.

    Points are numbered in 32 bits, of all components together: there may be 7·10⁸.

    Args:
        bins: sorted points, in the order of `search_kernel`: xyz (3, M) float32, home (3, N) float32, column (N, 2),
            own (N,), batch (N,), width (G, 3) float32, count (G, 3), base (G,), start (B + 1,), point (M,).
        atoms: home (N, 3) float64, atom of each point (M,), shift of each point (M, 3) and cell (G, 3, 3) float64; the
            last two None without periodicity.
        columns: columns on either side of an atom that are looked through.
        reach: how far they are, Å.
        outer, inner: squares, Å²: farther points are none, nearer ones are neighbours, those between are measured
            in float64.
        limit: smallest square of a pair that is not within the radius, Å².

    Attributes:
        counts: (N,) neighbours of each atom.
        nearest: (N,) float32, square of the distance to the nearest, Å²; infinite where there is none.
    """

    def __init__(
        self,
        bins: tuple[Tensor, ...],
        atoms: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        *,
        columns: int,
        reach: float,
        outer: float,
        inner: float,
        limit: float,
    ) -> None:
        origin, atom_of, shift, cell = atoms
        self._atom_of, self._shift = atom_of.contiguous(), None if shift is None else shift.contiguous()
        absent = origin.new_zeros(1)
        exact = origin, self._atom_of, self._shift, cell
        self._given = [absent if value is None else value.contiguous() for value in (*bins, *exact)]
        self._given.append(origin.new_tensor([limit]))
        self._sizes = origin.shape[0], atom_of.shape[0], reach, outer, inner
        self._columns = columns
        self.counts = torch.empty(origin.shape[0], dtype=torch.int64, device=origin.device)
        self.nearest = torch.empty(origin.shape[0], dtype=torch.float32, device=origin.device)
        self._run(self.counts, self.counts, is_writing=False)

    def _run(self, found: Tensor, chosen: Tensor, *, is_writing: bool) -> None:
        launch(
            search_kernel,
            (len(self.counts),),
            *self._given,
            found,
            self.nearest,
            chosen,
            *self._sizes,
            HAS_IMAGES=self._shift is not None,
            IS_WRITING=is_writing,
            COLUMNS=self._columns,
            STRETCHES=STRETCHES,
            TILE=TILE,
            warps=1,
            fuse=False,  # what is in doubt is decided to the last bit as on a CPU
        )

    def pairs(self, ptr: Tensor, total: int, home_cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Receivers, senders and shifts, sorted by receiver and point, and the points in the order they were met.

        Args:
            ptr: (N + 1,) row pointers by `counts`.
            total: how many pairs they hold.
            home_cell: (N, 3) cells that atoms lay in before they were wrapped: shifts are for positions as given.
        """
        chosen = torch.empty(total, dtype=torch.int32, device=ptr.device)
        self._run(ptr, chosen, is_writing=True)
        dst, src, moved = (torch.empty(total, *shape, dtype=torch.int64, device=ptr.device) for shape in ((), (), (3,)))
        has_images = self._shift is not None and home_cell is not None
        launch(
            order_kernel,
            (len(self.counts),),
            chosen,
            ptr,
            self._atom_of,
            self._shift if self._shift is not None else ptr,
            home_cell.contiguous() if home_cell is not None else ptr,
            dst,
            src,
            moved,
            HAS_IMAGES=has_images,
            BLOCK=BLOCK,
            warps=1,
        )
        return dst, src, moved, chosen
