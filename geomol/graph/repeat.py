"""Several copies of structures in one batch, so that a model can see each from several sides in one call."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from geomol.graph.record import Graph
from geomol.ops import gather_rows


def repeat_structures(graph: Graph, structure: Int[Tensor, " P"]) -> tuple[Graph, Int[Tensor, " M"]]:
    """The batch whose p-th structure is structure number `structure[p]` of `graph`.

    Args:
        graph: the structures to copy from.
        structure: any numbers in any order; one may occur often, or never.

    Returns:
        The new batch, and for each of its nodes the row in `graph` that it is a copy of. Positions and cells are
        gathered, hence differentiable.
    """
    of_node, node, ptr = _ranges(graph.ptr, structure)
    of_edge, edge, _ = _ranges(graph.edge_ptr[graph.ptr], structure)
    jump = (ptr[:-1] - graph.ptr[structure])[of_edge]
    edge_index = graph.edge_index[:, edge] + jump
    degrees = graph.edge_ptr.diff()[node]
    new = Graph(
        pos=gather_rows(graph.pos, node),
        numbers=graph.numbers[node],
        edge_index=edge_index,
        edge_ptr=torch.nn.functional.pad(degrees.cumsum(0), (1, 0)),
        cell_shift=graph.cell_shift[edge],
        cell=gather_rows(graph.cell, structure),
        pbc=graph.pbc[structure],
        batch=of_node,
        ptr=ptr,
        cutoff=graph.cutoff,
        node_scalars=None if graph.node_scalars is None else gather_rows(graph.node_scalars, node),
        node_vectors=None if graph.node_vectors is None else gather_rows(graph.node_vectors, node),
    )
    if "is_periodic" in graph.__dict__ and not graph.is_periodic:
        new.__dict__["is_periodic"] = False
    return new, node


def _ranges(ptr: Int[Tensor, " Q"], rows: Int[Tensor, " P"]) -> tuple[Tensor, Tensor, Tensor]:
    """The ranges `ptr[r]:ptr[r + 1]` one after the other: the place in `rows`, the member, and new row pointers."""
    count = ptr.diff()[rows]
    new_ptr = torch.nn.functional.pad(count.cumsum(0), (1, 0))
    total = int(new_ptr[-1])
    owner = torch.repeat_interleave(torch.arange(len(rows), device=ptr.device), count, output_size=total)
    member = torch.arange(total, device=ptr.device) + (ptr[rows] - new_ptr[:-1])[owner]
    return owner, member, new_ptr
