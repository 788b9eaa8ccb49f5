"""Thousands of structures in flat arrays, from which batches are put together without a loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from geomol.errors import InputError
from geomol.graph.checks import check_cutoff
from geomol.graph.edges import FlatEdges, list_edges
from geomol.graph.record import Graph


@dataclass(frozen=True, eq=False)
class GraphStore:
    """Structures with their neighbours, found once; made by `GraphStore.from_arrays`.

    All indices are kept relative to their structure, so that a batch is a gather and an addition.

    Attributes:
        pos, numbers: atoms of all structures, one after the other; Å.
        cell, pbc: of each structure.
        sizes: atoms and edges of each structure.
        starts: first atom and first edge of each structure.
        edges: sender, receiver and transposed order (`Graph.send_perm`) of each edge.
        rows: edges before each atom in receiver order and in sender order.
        cell_shift: lattice translation of the sender of each edge; None if no structure is periodic.
        cutoff: Å.
    """

    pos: Float[Tensor, "A 3"]
    numbers: Int[Tensor, " A"]
    cell: Float[Tensor, "S 3 3"]
    pbc: Bool[Tensor, "S 3"]
    sizes: Int[Tensor, "S 2"]
    starts: Int[Tensor, "S 2"]
    edges: Int[Tensor, "3 E"]
    rows: Int[Tensor, "2 A"]
    cell_shift: Int[Tensor, "E 3"] | None
    cutoff: float

    @staticmethod
    def from_arrays(
        pos: ArrayLike | Tensor,
        numbers: ArrayLike | Tensor,
        ptr: ArrayLike | Tensor,
        cell: ArrayLike | Tensor,
        pbc: ArrayLike | Tensor,
        cutoff: float = float("inf"),
        dtype: torch.dtype = torch.float64,
        *,
        device: torch.device | str | None = None,
        complete: bool = False,
    ) -> GraphStore:
        """Find the neighbours of every structure.

        Args:
            pos: (A, 3) positions of all atoms, Å.
            numbers: (A,) atomic numbers.
            ptr: (S + 1,) first atom of each structure.
            cell: (S, 3, 3) lattice vectors as rows, Å.
            pbc: (S, 3) periodic directions.
            cutoff: Å; inf (the default) makes complete graphs.
            dtype: of the positions and cells of batches; neighbours are found in float64 whatever it is.
            device: where the arrays are kept and batches are made.
            complete: join all pairs of each structure, as `build_graph` does.

        Raises:
            ConfigError, InputError, CapacityError: as `neighbour_list`, naming the structure.
        """
        complete = complete or cutoff == float("inf")
        cutoff = float("inf") if complete else check_cutoff(cutoff)
        atoms, z = np.asarray(pos, dtype=np.float64), np.asarray(numbers, dtype=np.int64)
        bounds = np.asarray(ptr, dtype=np.int64)
        cells, periodic = np.asarray(cell, dtype=np.float64), np.asarray(pbc, dtype=bool)
        _check_arrays(atoms, z, bounds, cells, periodic)
        flat = list_edges(atoms, bounds, cells, periodic, cutoff, complete=complete)
        edges, rows = _relative_orders(flat, bounds)
        starts = np.stack([bounds[:-1], flat.ptr[:-1]], axis=1)
        sizes = np.stack([np.diff(bounds), np.diff(flat.ptr)], axis=1)
        return GraphStore(
            pos=torch.tensor(atoms, dtype=dtype, device=device),
            numbers=torch.tensor(z, device=device),
            cell=torch.tensor(cells, dtype=dtype, device=device),
            pbc=torch.tensor(periodic, device=device),
            sizes=torch.from_numpy(sizes).to(device),
            starts=torch.from_numpy(starts).to(device),
            edges=torch.from_numpy(edges).to(device),
            rows=torch.from_numpy(rows).to(device),
            cell_shift=torch.from_numpy(_narrow(flat.shift)).to(device) if periodic.any() else None,
            cutoff=cutoff,
        )

    def __len__(self) -> int:
        return self.sizes.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, bytes."""
        return sum(value.nbytes for value in self.__dict__.values() if isinstance(value, Tensor))

    def to(self, device: torch.device | str) -> GraphStore:
        """The store on another device; batches are then made there."""
        moved = {name: value.to(device) for name, value in self.__dict__.items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **moved)  # type: ignore[arg-type]

    def node_index(self, index: Tensor | Sequence[int]) -> Int[Tensor, " N"]:
        """Row of each atom of `batch(index)` in the flat arrays, to gather labels with."""
        index = torch.as_tensor(index, dtype=torch.int64, device=self.pos.device)
        count, start = self.sizes[index, 0], self.starts[index, 0]
        first = start - count.cumsum(0) + count
        num_nodes = int(count.sum())
        return torch.repeat_interleave(first, count, output_size=num_nodes).add_(
            torch.arange(num_nodes, device=index.device)
        )

    def batch(self, index: Tensor | Sequence[int], *, rotation: Float[Tensor, "B 3 3"] | None = None) -> Graph:
        """The graph of some structures, equal to `build_graph` of them.

        Args:
            index: which structures, in order; one may occur more than once.
            rotation: R for each structure; positions x become R x, and so do lattice vectors. Edges stay the same.
        """
        index = torch.as_tensor(index, dtype=torch.int64, device=self.pos.device)
        size = self.sizes.index_select(0, index)  # (B, 2)
        bounds = torch.nn.functional.pad(size.cumsum(0), (0, 0, 1, 0))
        num_nodes, num_edges = bounds[-1].tolist()
        jump = self.starts.index_select(0, index) - bounds[:-1]  # from a place in the batch to one in the store
        graphs = torch.arange(index.shape[0], device=index.device)
        batch = torch.repeat_interleave(graphs, size[:, 0], output_size=num_nodes)
        of_edge = torch.repeat_interleave(graphs, size[:, 1], output_size=num_edges)
        node = jump[:, 0].index_select(0, batch).add_(torch.arange(num_nodes, device=index.device))
        edge = jump[:, 1].index_select(0, of_edge).add_(torch.arange(num_edges, device=index.device))

        first_node, first_edge = bounds[:-1].t().contiguous()
        # gather along rows, because index_select is several times slower on a wide table
        edges = self.edges.gather(1, edge.expand(3, -1)).to(torch.int64)
        edges[:2] += first_node.index_select(0, of_edge)
        edges[2] += first_edge.index_select(0, of_edge)
        rows = self.rows.gather(1, node.expand(2, -1)) + first_edge.index_select(0, batch)
        rows = torch.nn.functional.pad(rows, (0, 1), value=num_edges)  # (2, N + 1)
        if self.cell_shift is None:
            shift = edge.new_zeros(num_edges, 3)
        else:
            shift = self.cell_shift.index_select(0, edge).to(torch.int64)
        pos, cell = self.pos.index_select(0, node), self.cell.index_select(0, index)
        if rotation is not None:
            turn = rotation.to(cell).transpose(1, 2).contiguous()  # rows of a strided tensor are slow to gather
            pos, cell = torch.bmm(pos[:, None], turn.index_select(0, batch))[:, 0], torch.bmm(cell, turn)
        graph = Graph(
            pos=pos,
            numbers=self.numbers.index_select(0, node),
            edge_index=edges[:2],
            edge_ptr=rows[0],
            cell_shift=shift,
            cell=cell,
            pbc=self.pbc.index_select(0, index),
            batch=batch,
            ptr=bounds[:, 0].contiguous(),
            cutoff=self.cutoff,
        )
        graph.__dict__.update(send_perm=edges[2], send_ptr=rows[1])
        if self.cell_shift is None:
            graph.__dict__["is_periodic"] = False
        return graph


def _relative_orders(flat: FlatEdges, ptr: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`edges` and `rows` of the store: both orders of the edges, counted within each structure."""
    counts = np.diff(flat.ptr)
    first_atom, first_edge = ptr[:-1].repeat(counts), flat.ptr[:-1].repeat(counts)
    src, dst = flat.src + first_atom, flat.dst + first_atom
    # structures follow each other, so the stable order over all is that of each
    send_perm = np.argsort(src, kind="stable") - first_edge
    atoms = np.arange(ptr[-1])
    before = flat.ptr[:-1].repeat(np.diff(ptr))
    rows = [np.searchsorted(dst, atoms) - before]
    rows.append(np.concatenate([[0], np.bincount(src, minlength=len(atoms)).cumsum()])[:-1] - before)
    return np.stack([flat.src, flat.dst, send_perm]).astype(np.int32), np.stack(rows).astype(np.int32)


def _narrow(shift: NDArray[np.int64]) -> NDArray[np.signedinteger]:
    """The same integers in the smallest type that holds them."""
    limit = int(np.abs(shift).max(initial=0))
    for kind in (np.int8, np.int16, np.int32):
        if limit <= np.iinfo(kind).max:
            return shift.astype(kind)
    return shift


def _check_arrays(
    pos: NDArray[np.float64],
    numbers: NDArray[np.int64],
    ptr: NDArray[np.int64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
) -> None:
    """Lengths that belong together."""
    if ptr.ndim != 1 or len(ptr) < 2 or ptr[0] != 0 or ptr[-1] != len(pos) or (np.diff(ptr) < 0).any():
        raise InputError("ptr does not divide the atoms", expected=f"ascending from 0 to {len(pos)}", got=str(ptr))
    num = len(ptr) - 1
    expected = {"pos": (len(pos), 3), "numbers": (len(pos),), "cell": (num, 3, 3), "pbc": (num, 3)}
    for (name, shape), value in zip(expected.items(), (pos, numbers, cell, pbc), strict=True):
        if value.shape != shape:
            raise InputError(f"{name} has a wrong shape", expected=str(shape), got=str(value.shape))
