"""Graph to and from `ase.Atoms`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import ase
import torch

from geomol.graph.build import build_graph
from geomol.graph.record import Graph


def graph_from_atoms(
    atoms: ase.Atoms | Sequence[ase.Atoms],
    cutoff: float = float("inf"),
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    complete: bool = False,
) -> Graph:
    """The same as `build_graph`, under the name of its inverse."""
    return build_graph(atoms, cutoff, dtype=dtype, device=device, complete=complete)


def graph_to_atoms(graph: Graph) -> list[ase.Atoms]:
    """One `ase.Atoms` for each structure: numbers, positions, cell and pbc, bit for bit."""
    graph = graph.to("cpu")
    pos, numbers = graph.pos.detach().numpy(), graph.numbers.numpy()
    cell, pbc, ptr = graph.cell.detach().numpy(), graph.pbc.numpy(), graph.ptr.tolist()
    return [
        ase.Atoms(numbers=numbers[first:last], positions=pos[first:last], cell=cell[k], pbc=pbc[k])
        for k, (first, last) in enumerate(itertools.pairwise(ptr))
    ]
