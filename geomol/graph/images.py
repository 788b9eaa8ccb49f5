"""Periodic images of atoms around their cell, which make a periodic structure a finite one for a search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from geomol.errors import CapacityError
from geomol.graph.capacity import DEFAULT_MAX_BYTES

_MARGIN = 1e-9  # of the cell; keeps rounding from losing an image
_BYTES_PER_IMAGE = 200  # of what is made of it before the search


@dataclass(frozen=True, eq=False)
class Images:
    """Atoms in their home cells, and points: the atoms and all their images within reach of the cell.

    Points are in the order of (atom, shift), so that their numbers sort pairs as `neighbour_list` does.

    Attributes:
        home: position of each atom, wrapped into the cell where that is periodic, Å.
        home_cell: (N, 3) cell that the atom was in; None if no structure is periodic.
        cell: of each structure.
        points: positions of the points, Å.
        batch: structure of each point.
        atom: atom that each point is an image of.
        shift: cell that each point is in; None if no structure is periodic.
        self_point: the point that each atom is.
    """

    home: Float[Tensor, "N 3"]
    home_cell: Int[Tensor, "N 3"] | None
    cell: Float[Tensor, "G 3 3"]
    points: Float[Tensor, "M 3"]
    batch: Int[Tensor, " M"]
    atom: Int[Tensor, " M"]
    shift: Int[Tensor, "M 3"] | None
    self_point: Int[Tensor, " N"]

    @property
    def num_points(self) -> int:
        return self.points.shape[0]

    def shifts(self, dst: Int[Tensor, " E"], src: Int[Tensor, " E"], point: Int[Tensor, " E"]) -> Int[Tensor, "E 3"]:
        """Lattice translation of the sender of each pair, for positions as they were given."""
        if self.shift is None or self.home_cell is None:
            return dst.new_zeros(len(dst), 3)
        if not bool(self.home_cell.any()):
            return self.shift.index_select(0, point)
        away = self.shift - self.home_cell.index_select(0, self.atom)
        return away.index_select(0, point).add_(self.home_cell.index_select(0, dst))

    def exact_square(self, point: Int[Tensor, " E"], dst: Int[Tensor, " E"]) -> Float[Tensor, " E"]:
        """Squared lengths, to the last bit the same for a pair and its opposite, on any device and in cells.c."""
        vec = self.home[self.atom[point]] - self.home[dst]
        if self.shift is None:
            return image_squares(vec, vec.new_zeros(1, 3), vec.new_zeros(1, 3, 3))
        return image_squares(vec, self.shift[point], of_structure(self.cell, self.batch[point]))


@dataclass(frozen=True, eq=False)
class Wrapped:
    """Atoms moved into their cells.

    Attributes:
        home: position of each atom, wrapped into the cell where that is periodic, Å.
        cell: of each structure, rows of open directions zero.
        frac: the wrapped positions in units of the cell; this and what follows None if no structure is periodic.
        home_cell: cell that each atom was in, whole numbers.
        margin: how far beyond each face of the cell there are images within the radius, in units of the cell.
    """

    home: Float[Tensor, "N 3"]
    cell: Float[Tensor, "G 3 3"]
    frac: Float[Tensor, "N 3"] | None
    home_cell: Float[Tensor, "N 3"] | None
    margin: Float[Tensor, "G 3"] | None


def image_squares(
    vec: Float[Tensor, "E 3"], shift: Shaped[Tensor, "#E 3"], cell: Float[Tensor, "#E 3 3"]
) -> Float[Tensor, " E"]:
    """|vec + shift @ cell|², written out because the rounding of matrix products and norms is not certain."""
    steps = shift.to(vec.dtype)
    x, y, z = (vec + (steps[:, 0:1] * cell[:, 0] + steps[:, 1:2] * cell[:, 1] + steps[:, 2:] * cell[:, 2])).unbind(1)
    return x.square() + y.square() + z.square()


def smallest_square(distance: float) -> float:
    """The smallest number whose root is not below a distance: squares below it are those of shorter distances.

    Roots themselves are not compared, because not every library rounds them correctly.
    """
    square = distance * distance
    while math.sqrt(square) >= distance:
        square = math.nextafter(square, 0.0)
    while math.sqrt(square) < distance:
        square = math.nextafter(square, math.inf)
    return square


def wrapped_atoms(
    pos: Float[Tensor, "N 3"],
    batch: Int[Tensor, " N"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    radius: float,
) -> Wrapped:
    """Where atoms lie in their cells, and how far around these a radius reaches."""
    if not bool(pbc.any()):
        return Wrapped(pos, cell, None, None, None)
    cell = torch.where(pbc[:, :, None], cell, 0.0)
    inverse = torch.linalg.inv(complete_cells(cell, pbc))
    frac = _combined(pos, inverse, batch)
    home_cell = torch.floor(frac) * of_structure(pbc, batch)
    margin = radius * inverse.norm(dim=1) * (1 + _MARGIN) + _MARGIN
    return Wrapped(pos - _combined(home_cell, cell, batch), cell, frac - home_cell, home_cell, margin)


def periodic_images(
    pos: Float[Tensor, "N 3"],
    batch: Int[Tensor, " N"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    radius: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Images:
    """All images of atoms that can be nearer than `radius` to an atom of the cell.

    Raises:
        CapacityError: they could take more than `max_bytes`; found before they are made.
    """
    atoms = torch.arange(pos.shape[0], device=pos.device)
    wrapped = wrapped_atoms(pos, batch, cell, pbc, radius)
    frac, home_cell, margin = wrapped.frac, wrapped.home_cell, wrapped.margin
    if frac is None or home_cell is None or margin is None:
        return Images(pos, None, cell, pos, batch, atoms, None, atoms)
    atom, shift = atoms, torch.zeros_like(home_cell)
    for axis in range(3):
        reach = int(torch.ceil(margin[:, axis].masked_fill(~pbc[:, axis], 0.0)).max())
        if reach == 0:
            continue
        _check_capacity(len(atom) * (2 * reach + 1), len(atoms), max_bytes)
        steps = torch.arange(-reach, reach + 1, device=pos.device, dtype=pos.dtype)
        moved = frac[:, axis, None] + steps
        wide = of_structure(margin[:, axis, None], batch)
        near = (moved > -wide) & (moved < 1 + wide)
        near = torch.where(of_structure(pbc[:, axis, None], batch), near, steps == 0)
        which, step = near.index_select(0, atom).nonzero().unbind(1)
        atom, shift = atom.index_select(0, which), shift.index_select(0, which)
        shift[:, axis] = steps.index_select(0, step)
    whose = batch.index_select(0, atom)
    points = wrapped.home.index_select(0, atom) + _combined(shift, wrapped.cell, whose)
    self_point = (shift == 0).all(dim=1).nonzero()[:, 0]
    return Images(wrapped.home, home_cell.long(), wrapped.cell, points, whose, atom, shift.long(), self_point)


def _check_capacity(images: int, atoms: int, max_bytes: int) -> None:
    if images * _BYTES_PER_IMAGE > max_bytes:
        raise CapacityError(
            f"up to {images:.3g} periodic images around {atoms} atoms do not fit",
            expected=f"at most {max_bytes / 1024**3:.3g} GiB",
            remedy="use a smaller cutoff or structure, or raise max_bytes; neighbours are never dropped",
        )


def of_structure(values: Shaped[Tensor, "G ..."], batch: Int[Tensor, " N"]) -> Shaped[Tensor, "M ..."]:
    """The value of the structure of each row; of a single one as (1, ...), to be broadcast."""
    return values if len(values) == 1 else values.index_select(0, batch)


def _combined(
    factors: Float[Tensor, "N 3"], cell: Float[Tensor, "G 3 3"], batch: Int[Tensor, " N"]
) -> Float[Tensor, "N 3"]:
    """Combinations of the rows of each structure's matrix, written out: see `image_squares`."""
    rows = of_structure(cell, batch)
    return factors[:, 0:1] * rows[:, 0] + factors[:, 1:2] * rows[:, 1] + factors[:, 2:] * rows[:, 2]


def complete_cells(cell: Float[Tensor, "G 3 3"], pbc: Bool[Tensor, "G 3"]) -> Float[Tensor, "G 3 3"]:
    """The cells with each open direction replaced by a unit vector normal to the periodic ones."""
    if bool(pbc.all()):
        return cell
    # the last right singular vectors span what the periodic rows do not reach
    normals = torch.linalg.svd(cell)[2].flip(1)
    rank = (torch.cumsum(~pbc, dim=1) - 1).clamp_(min=0)
    chosen = normals.gather(1, rank[:, :, None].expand(-1, -1, 3))
    return torch.where(pbc[:, :, None], cell, chosen)
