"""From ASE structures to a Graph."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
import torch

from geomol.errors import InputError
from geomol.graph.checks import check_cutoff
from geomol.graph.edges import list_edges
from geomol.graph.record import Graph


def build_graph(
    structures: ase.Atoms | Sequence[ase.Atoms],
    cutoff: float = float("inf"),
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    complete: bool = False,
) -> Graph:
    """The graph of one structure or a batch of many.

    Args:
        structures: one structure or a sequence of them.
        cutoff: all pairs nearer than this are edges, Å; inf (the default) makes a complete graph.
        dtype: of positions and cells; neighbours are found in float64 whatever it is.
        device: where the graph will be, and where large structures are searched.
        complete: join every pair of atoms whatever their distance (no periodicity); the graph's cutoff is then inf.

    Raises:
        ConfigError: if the cutoff is not a positive number.
        InputError: for structures that cannot mean what they say; see `neighbour_list`.
        CapacityError: if the neighbours would exceed the memory budget.
    """
    frames = [structures] if isinstance(structures, ase.Atoms) else list(structures)
    if not frames:
        raise InputError("no structures to build a graph of")
    complete = complete or cutoff == float("inf")
    cutoff = float("inf") if complete else check_cutoff(cutoff)
    pos = np.concatenate([atoms.positions for atoms in frames]).astype(np.float64, copy=False)
    numbers = np.concatenate([atoms.numbers for atoms in frames]).astype(np.int64, copy=False)
    cell = np.array([atoms.cell.array for atoms in frames], dtype=np.float64)
    pbc = np.array([atoms.pbc for atoms in frames], dtype=bool)
    counts = np.array([len(atoms) for atoms in frames])
    ptr = np.concatenate([[0], counts.cumsum()])
    edges = list_edges(pos, ptr, cell, pbc, cutoff, complete=complete, device=device)
    first_atom = ptr[:-1].repeat(np.diff(edges.ptr))
    src, dst = edges.src + first_atom, edges.dst + first_atom
    edge_ptr = np.searchsorted(dst, np.arange(len(pos) + 1))
    graph = Graph(
        pos=torch.from_numpy(pos).to(device, dtype),
        numbers=torch.from_numpy(numbers).to(device),
        edge_index=torch.from_numpy(np.stack([src, dst])).to(device),
        edge_ptr=torch.from_numpy(edge_ptr).to(device),
        cell_shift=torch.from_numpy(edges.shift).to(device),
        cell=torch.from_numpy(cell).to(device, dtype),
        pbc=torch.from_numpy(pbc).to(device),
        batch=torch.from_numpy(np.arange(len(frames)).repeat(counts)).to(device),
        ptr=torch.from_numpy(ptr).to(device),
        cutoff=cutoff,
    )
    graph.__dict__["is_periodic"] = bool(pbc.any())  # known here without asking the device
    return graph
