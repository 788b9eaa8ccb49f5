"""Neighbours in batches of small finite structures: one table of distances, on any device, without a search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.errors import ConfigError
from geomol.graph.record import Graph
from geomol.ops import segment_index


@dataclass(frozen=True, eq=False)
class DenseEdges:
    """What a table of near pairs says as edges; the fields are those of `Graph`.

    The relation is symmetric, so that the pointers of receivers and of senders are the same.
    """

    edge_index: Int[Tensor, "2 E"]
    edge_ptr: Int[Tensor, " R"]
    send_perm: Int[Tensor, " E"]


class DensePairs:
    """All pairs |x_j − x_i| < cutoff within each structure of a batch, tabulated: G n² distances, n the largest size.

    Structures of unequal size are filled up with NaN, which is near to nothing. The work grows with the square of the
    number of atoms, so this is for molecules; `cell_pairs` is for what is larger or periodic. No step depends on the
    values of the positions other than the table itself, and the only wait for the device is for the number of edges.

    Args:
        ptr: first atom of each structure, and the number of atoms at the end.
        cutoff: Å; inf joins all atoms of each structure.
    """

    def __init__(self, ptr: Int[Tensor, " P"], cutoff: float) -> None:
        if not cutoff > 0:
            raise ConfigError("cutoff out of range", expected="a positive distance in Å", got=repr(cutoff))
        sizes = ptr.diff()
        self.ptr, self.cutoff = ptr, cutoff
        self.num_nodes, self.num_graphs = int(ptr[-1]), len(sizes)
        self.width = int(sizes.max()) if len(sizes) else 0
        self.batch = segment_index(ptr, self.num_nodes)
        rank = torch.arange(self.num_nodes, device=ptr.device) - ptr[self.batch]
        # place of each atom in the padded table; None where nothing is padded
        is_padded = self.num_nodes != self.num_graphs * self.width
        self._place = rank + self.batch * self.width if is_padded else None
        # an atom is no neighbour of its own: nothing is nearer than 0
        limit = torch.full((self.width, self.width), cutoff * cutoff, dtype=torch.float64)
        self._limit = limit.fill_diagonal_(0.0).to(ptr.device)
        row = (ptr[:-1, None] + torch.arange(self.width, device=ptr.device))[:, :, None]
        rows = row.expand(self.num_graphs, self.width, self.width)
        entry = torch.arange(rows.numel(), device=ptr.device).view(rows.shape)
        # sender, receiver and opposite of each entry
        self._senders, self._receivers = rows.transpose(1, 2).reshape(-1), rows.reshape(-1)
        self._opposite = entry.transpose(1, 2).reshape(-1)
        starts = entry[:, :, 0].reshape(-1)[: self.num_nodes] if self._place is None else self._place * self.width
        self._starts = torch.nn.functional.pad(starts, (0, 1), value=rows.numel())

    def near(self, pos: Float[Tensor, "N 3"]) -> Bool[Tensor, "G W W"]:
        """Which places of each structure are neighbours; symmetric to the last bit, since (a − b)² = (b − a)²."""
        table = pos
        if self._place is not None:
            table = pos.new_full((self.num_graphs * self.width, 3), math.nan).index_copy_(0, self._place, pos)
        x, y, z = table.view(self.num_graphs, self.width, 3).unbind(-1)
        # by component: a sum over an axis of length three is slow
        square = (x[:, :, None] - x[:, None]).square_()
        square.add_((y[:, :, None] - y[:, None]).square_()).add_((z[:, :, None] - z[:, None]).square_())
        return square < self._limit

    def edges(self, near: Bool[Tensor, "G W W"]) -> DenseEdges:
        """The table as edges sorted by receiver, then sender."""
        flat = near.view(-1)
        entry = flat.nonzero().view(-1)
        number = torch.nn.functional.pad(flat.cumsum(0), (1, 0))  # of the edge that an entry is
        edge_index = torch.stack([self._senders.index_select(0, entry), self._receivers.index_select(0, entry)])
        back = number.index_select(0, self._opposite.index_select(0, entry))
        return DenseEdges(edge_index, number.index_select(0, self._starts), back)


def dense_graph(
    pos: Float[Tensor, "N 3"],
    numbers: Int[Tensor, " N"],
    ptr: Int[Tensor, " P"],
    cutoff: float,
    *,
    table: DensePairs | None = None,
) -> Graph:
    """The graph of finite structures, equal to `build_graph` of them, made where the positions are.

    Args:
        pos: Å.
        numbers: atomic numbers.
        ptr: first atom of each structure.
        cutoff: Å.
        table: of the same `ptr` and `cutoff`, made before; most of the time for one molecule is for making it.

    Raises:
        ConfigError: a cutoff that is not positive.
    """
    table = DensePairs(ptr, cutoff) if table is None else table
    edges = table.edges(table.near(pos))
    graph = Graph(
        pos=pos,
        numbers=numbers,
        edge_index=edges.edge_index,
        edge_ptr=edges.edge_ptr,
        cell_shift=ptr.new_zeros(edges.send_perm.shape[0], 3),
        cell=pos.new_zeros(table.num_graphs, 3, 3),
        pbc=torch.zeros(table.num_graphs, 3, dtype=torch.bool, device=pos.device),
        batch=table.batch,
        ptr=ptr,
        cutoff=cutoff,
    )
    graph.__dict__.update(is_periodic=False, send_perm=edges.send_perm, send_ptr=edges.edge_ptr)
    return graph
