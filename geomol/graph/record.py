"""The Graph record: what every backbone reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.ops import gather_receivers, gather_segments, gather_senders


@dataclass(frozen=True, eq=False)
class Graph:
    """Atoms or points with their neighbour pairs; always a batch, of one structure or many.

    Edges follow PyG: row 0 of `edge_index` sends, row 1 receives. They are sorted by receiver, and `edge_ptr` holds
    the row pointers, so that the edges into node i are `edge_ptr[i]:edge_ptr[i + 1]` and reductions need no atomics.
    With an ASE neighbour list (i, j, S, D): receiver = i, sender = j, `cell_shift` = S, and `edge_vectors` gives D.

    `pos` may be float64 while the model computes in float32: vectors are formed in the precision of `pos` and cast
    afterwards, so that a structure far from the origin loses nothing.

    Attributes:
        pos: positions, Å.
        numbers: atomic numbers (0 where points have no element).
        edge_index: senders and receivers, sorted by receiver.
        edge_ptr: row pointers of the receivers, one more than there are nodes.
        cell_shift: lattice translations of the sender, in units of the cell rows (zeros without periodicity).
        cell: lattice vectors as rows, Å (zeros where a structure has none).
        pbc: periodic directions.
        batch: structure of each node.
        ptr: first node of each structure, and the number of nodes at the end.
        cutoff: the radius within which all pairs are listed, Å (inf: a complete or given graph).
        node_scalars: optional invariant inputs per node (charge, noise level, ...).
        node_vectors: optional vector inputs per node (velocity, normal, reference frame, ...).
    """

    pos: Float[Tensor, "N 3"]
    numbers: Int[Tensor, " N"]
    edge_index: Int[Tensor, "2 E"]
    edge_ptr: Int[Tensor, " R"]
    cell_shift: Int[Tensor, "E 3"]
    cell: Float[Tensor, "G 3 3"]
    pbc: Bool[Tensor, "G 3"]
    batch: Int[Tensor, " N"]
    ptr: Int[Tensor, " P"]
    cutoff: float = float("inf")
    node_scalars: Float[Tensor, "N S"] | None = None
    node_vectors: Float[Tensor, "N V 3"] | None = None

    @property
    def num_nodes(self) -> int:
        return self.pos.shape[0]

    @property
    def num_edges(self) -> int:
        return self.edge_index.shape[1]

    @property
    def num_graphs(self) -> int:
        return self.ptr.shape[0] - 1

    @property
    def device(self) -> torch.device:
        return self.pos.device

    @property
    def src(self) -> Int[Tensor, " E"]:
        """Sender of each edge."""
        return self.edge_index[0]

    @property
    def dst(self) -> Int[Tensor, " E"]:
        """Receiver of each edge, ascending."""
        return self.edge_index[1]

    @cached_property
    def send_perm(self) -> Int[Tensor, " E"]:
        """Edges ordered by sender (stable): the transposed order, which operators need for gradients."""
        return torch.argsort(self.src, stable=True)

    @cached_property
    def send_ptr(self) -> Int[Tensor, " {self.num_nodes}+1"]:
        """Row pointers of `send_perm`."""
        counts = torch.bincount(self.src, minlength=self.num_nodes)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    @cached_property
    def is_periodic(self) -> bool:
        """Whether any edge crosses a cell boundary can matter: any periodic direction at all."""
        return bool(self.pbc.any())

    def prepared(self) -> Graph:
        """This graph, with all that follows from its edges worked out now, so that every copy of it has it."""
        _ = self.send_perm, self.send_ptr, self.is_periodic
        return self

    def replace(self, **changes: object) -> Graph:
        """A copy with some fields exchanged; the order of the edges is kept with all that follows from it."""
        new = dataclasses.replace(self, **changes)  # type: ignore[arg-type]
        if "edge_index" not in changes:
            for name in ("send_perm", "send_ptr"):
                if name in self.__dict__:
                    new.__dict__[name] = self.__dict__[name]
        if "pbc" not in changes and "is_periodic" in self.__dict__:
            new.__dict__["is_periodic"] = self.__dict__["is_periodic"]
        return new

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Graph:
        """The graph on another device; `dtype` applies to the floating fields."""
        new = dataclasses.replace(self)
        for name, value in self.__dict__.items():  # fields, and what has been derived from them
            if isinstance(value, Tensor):
                value = value.to(device, dtype if value.is_floating_point() else None)
            new.__dict__[name] = value
        return new


def edge_vectors(graph: Graph, dtype: torch.dtype | None = None) -> Float[Tensor, "E 3"]:
    """Vector from each receiver to its sender, periodic images included, in Å.

    r_e = pos[src] + cell_shift @ cell − pos[dst], formed in the precision of `pos`, then cast to `dtype`.
    """

    vec = gather_senders(graph.pos, graph) - gather_receivers(graph.pos, graph)
    if graph.is_periodic:
        shift = graph.cell_shift.to(graph.pos.dtype)
        if graph.num_graphs == 1:
            vec = vec + shift @ graph.cell[0]
        else:
            cell = gather_segments(graph.cell, graph.batch[graph.dst], graph.edge_ptr[graph.ptr])  # (E, 3, 3)
            vec = vec + torch.einsum("ei,eij->ej", shift, cell)
    return vec if dtype is None else vec.to(dtype)
