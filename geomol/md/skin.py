"""Neighbour pairs kept between calls: a list with a skin, filtered to the exact pairs of the moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from geomol.errors import ConfigError, InputError, ModelDomainError
from geomol.graph import Graph
from geomol.graph.neighbours import pair_tensors

_COINCIDENT = 1e-6  # Å; two atoms nearer than this are one atom given twice
_FEW = 1_000  # numbers; copying more of them to compare takes longer than comparing them
_ROUNDING = 1e-9  # Å; keeps the bound of the skin on the safe side of rounding in the displacement


@dataclass
class _Selection:
    """The pairs within one cutoff at the last call."""

    mask: Tensor
    graph: Graph


@dataclass
class _Pairs:
    """All pairs within cutoff + skin of the reference positions, in canonical order, as the edges of `whole`."""

    pos: NDArray[np.float64]
    numbers: NDArray[np.int64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    whole: Graph
    selections: dict[float, _Selection] = field(default_factory=dict)

    @cached_property
    def offset(self) -> Tensor:
        """What the cell shifts add to the vector of each pair, Å."""
        # written out because the rounding of a matrix product may depend on the number of rows
        shift, cell = self.whole.cell_shift, self.whole.cell[0]
        return shift[:, :1] * cell[0] + shift[:, 1:2] * cell[1] + shift[:, 2:] * cell[2]

    def of_same_system(self, numbers: NDArray[np.int64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> bool:
        """Whether nothing but positions can have changed."""
        return same_bits(numbers, self.numbers) and same_bits(pbc, self.pbc) and same_bits(cell, self.cell)


class SkinList:
    """Verlet list: pairs up to cutoff + skin are searched rarely, those within the cutoff selected at every call.

    Why the result does not depend on when the list was last rebuilt: two atoms that have moved by at most skin/2 each
    since then cannot have come closer by more than the skin, so no pair is missed; the selection then keeps exactly
    the pairs within the cutoff; and the order is canonical, by receiver, sender and cell shift. A simulation that is
    stopped and continued (and rebuilds in between) therefore gives the same bits.

    Displacements are differences of the raw positions. An atom that was wrapped back into the cell has moved by a
    lattice vector, which invalidates its cell shifts, and so it must not be measured with the minimum image. A new
    cell, new periodicity, other elements or another number of atoms also rebuild.

    Args:
        cutoff: largest radius that will be asked for, Å; inf for complete graphs, which are never periodic.
        skin: extra radius, Å; 0 rebuilds whenever an atom has moved.
        device: where the graphs live.

    Attributes:
        rebuilds: number of searches so far.
    """

    def __init__(self, cutoff: float, *, skin: float, device: torch.device) -> None:
        is_number = isinstance(skin, float | int | np.number) and not isinstance(skin, bool)
        if not (is_number and math.isfinite(skin) and skin >= 0):
            raise ConfigError("the skin must be a length", expected="a number >= 0 (Å)", got=repr(skin))
        self.cutoff, self.skin, self.device = cutoff, skin, device
        self.rebuilds = 0
        self._pairs: _Pairs | None = None

    def update(
        self,
        pos: NDArray[np.float64],
        numbers: NDArray[np.int64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
    ) -> None:
        """Search again if the stored pairs could miss one at these positions."""
        last = self._pairs
        if last is not None and not last.of_same_system(numbers, cell, pbc):
            last = None
        if last is None or not self._holds(last, pos):
            self._pairs = self._search(pos, numbers, cell, pbc, last)
            self.rebuilds += 1

    def graph(self, pos: Float[Tensor, "N 3"], cutoff: float) -> Graph:
        """The graph of the pairs within `cutoff` at these positions; call `update` first.

        Raises:
            InputError: two atoms at the same place.
        """
        assert self._pairs is not None
        pairs = self._pairs
        if self.skin == 0 and cutoff == self.cutoff < math.inf:
            return pairs.whole  # searched at these very positions, which the search has checked
        src, dst = pairs.whole.edge_index
        vec = pos[src] + pairs.offset - pos[dst]
        square = (vec * vec).sum(-1)
        if square.numel() > 0 and float(square.min()) < _COINCIDENT**2:
            _refuse_coincident(pairs, int(square.argmin()))
        if math.isinf(cutoff):
            return pairs.whole.replace(pos=pos)
        mask = square < cutoff * cutoff
        last = pairs.selections.get(cutoff)
        if last is None or not torch.equal(mask, last.mask):
            last = _Selection(mask, _select(pairs, mask, cutoff))
            pairs.selections[cutoff] = last
        return last.graph.replace(pos=pos)

    def _holds(self, pairs: _Pairs, pos: NDArray[np.float64]) -> bool:
        """Whether no pair can be missing now that the atoms of the same system have moved."""
        if math.isinf(self.cutoff):
            return True
        step = pos - pairs.pos
        largest = math.sqrt(float((step * step).sum(axis=1).max(initial=0.0)))
        return largest == 0.0 or largest <= self.skin / 2 - _ROUNDING

    def _search(
        self,
        pos: NDArray[np.float64],
        numbers: NDArray[np.int64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        last: _Pairs | None,
    ) -> _Pairs:
        """All pairs at these positions; what is the same as in the `last` pairs of this system is taken from them."""
        if math.isinf(self.cutoff):
            if pbc.any():
                raise ModelDomainError(
                    "a model on complete graphs has no periodic form", remedy="use a model with a finite cutoff"
                )
            dst, src = torch.from_numpy(np.array(np.nonzero(~np.eye(len(pos), dtype=bool)))).to(self.device)
            cell_shift = dst.new_zeros(len(dst), 3)
        else:
            dst, src, cell_shift = pair_tensors(pos, cell, pbc, self.cutoff + self.skin, device=self.device)
        edge_index = torch.stack([src, dst])
        edge_ptr = _row_pointers(edge_index[1], len(pos))
        points = torch.tensor(pos, dtype=torch.float64, device=self.device)
        if last is not None:
            whole = last.whole.replace(pos=points, edge_index=edge_index, edge_ptr=edge_ptr, cell_shift=cell_shift)
            return _Pairs(pos.copy(), last.numbers, last.cell, last.pbc, whole)
        whole = Graph(
            pos=points,
            numbers=torch.tensor(numbers, dtype=torch.int64, device=self.device),
            edge_index=edge_index,
            edge_ptr=edge_ptr,
            cell_shift=cell_shift,
            cell=torch.tensor(cell, dtype=torch.float64, device=self.device)[None],
            pbc=torch.tensor(pbc, dtype=torch.bool, device=self.device)[None],
            batch=torch.zeros(len(pos), dtype=torch.int64, device=self.device),
            ptr=torch.tensor([0, len(pos)], dtype=torch.int64, device=self.device),
            cutoff=self.cutoff,
        )
        return _Pairs(pos.copy(), numbers.copy(), cell.copy(), pbc.copy(), whole)


def _row_pointers(dst: Tensor, num_nodes: int) -> Tensor:
    return torch.searchsorted(dst, torch.arange(num_nodes + 1, device=dst.device))


def _select(pairs: _Pairs, mask: Tensor, cutoff: float) -> Graph:
    edge_index = pairs.whole.edge_index[:, mask]
    graph = pairs.whole.replace(
        edge_index=edge_index,
        edge_ptr=_row_pointers(edge_index[1], len(pairs.pos)),
        cell_shift=pairs.whole.cell_shift[mask],
        cutoff=cutoff,
    )
    return graph.prepared()


def _refuse_coincident(pairs: _Pairs, edge: int) -> None:
    i, j = sorted(int(k) for k in pairs.whole.edge_index[:, edge])
    raise InputError(f"atoms {i} and {j} coincide", expected=f"distances of at least {_COINCIDENT:g} Å")


def same_bits(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays are the same, exactly; those of molecules by their bytes, in a fifth of NumPy's time."""
    if first.size > _FEW:
        return np.array_equal(first, second)
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()
