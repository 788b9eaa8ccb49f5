"""All pairs of every structure, made where the positions are."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.graph.record import Graph


def complete_graph(
    pos: Float[Tensor, "N 3"],
    numbers: Int[Tensor, " N"],
    ptr: Int[Tensor, " P"],
    *,
    node_scalars: Float[Tensor, "N S"] | None = None,
    node_vectors: Float[Tensor, "N V 3"] | None = None,
) -> Graph:
    """Finite structures with an edge between every two nodes, both ways; no neighbour list, no loop, any device."""
    sizes = ptr.diff()
    num_graphs, num_nodes = len(sizes), len(pos)
    batch = torch.repeat_interleave(torch.arange(num_graphs, device=pos.device), sizes, output_size=num_nodes)
    others = (sizes - 1)[batch]  # edges into each node
    edge_ptr = torch.nn.functional.pad(others.cumsum(0), (1, 0))
    num_edges = int(edge_ptr[-1]) if num_nodes else 0
    dst = torch.repeat_interleave(torch.arange(num_nodes, device=pos.device), others, output_size=num_edges)
    rank = torch.arange(num_edges, device=pos.device) - edge_ptr[dst]
    src = ptr[batch[dst]] + rank
    src = src + (src >= dst)  # the node itself is left out
    graph = Graph(
        pos=pos,
        numbers=numbers,
        edge_index=torch.stack([src, dst]),
        edge_ptr=edge_ptr,
        cell_shift=dst.new_zeros(num_edges, 3),
        cell=pos.new_zeros(num_graphs, 3, 3),
        pbc=torch.zeros(num_graphs, 3, dtype=torch.bool, device=pos.device),
        batch=batch,
        ptr=ptr,
        node_scalars=node_scalars,
        node_vectors=node_vectors,
    )
    # edge (i, j) in sender order is edge (j, i) in receiver order: a node has as many in as out, to the same others
    back = edge_ptr[src] + (dst - ptr[batch[dst]]) - (dst > src).to(dst.dtype)
    graph.__dict__.update(is_periodic=False, send_perm=back, send_ptr=edge_ptr)
    return graph
