"""Graphs of point clouds: k nearest neighbours, or all within a radius."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import InputError
from geomol.graph.knn import DEFAULT_MAX_BYTES, knn, radius_edges
from geomol.graph.point_edges import PointEdges, ptr_to_batch
from geomol.graph.record import Graph


def knn_graph(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    k: int,
    *,
    include_self: bool = False,
    numbers: Int[Tensor, " N"] | None = None,
    node_scalars: Float[Tensor, "N S"] | None = None,
    node_vectors: Float[Tensor, "N V 3"] | None = None,
) -> Graph:
    """Every point receives from its k nearest (all others in a smaller cloud); see `geomol.graph.knn`.

    Not symmetric: i may be among the nearest of j and not the reverse. As points move, the edges change by jumps; a
    network over this graph is not continuous in the positions.

    Args:
        numbers: kind of each point; 0 unless given.
    """
    edges = knn(pos, ptr, k, include_self=include_self)
    return graph_from_edges(pos, ptr, edges, numbers=numbers, node_scalars=node_scalars, node_vectors=node_vectors)


def radius_graph_of_cloud(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    radius: float,
    *,
    include_self: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
    numbers: Int[Tensor, " N"] | None = None,
    node_scalars: Float[Tensor, "N S"] | None = None,
    node_vectors: Float[Tensor, "N V 3"] | None = None,
) -> Graph:
    """Every point receives from all points nearer than `radius`, which becomes the graph's cutoff."""
    edges = radius_edges(pos, ptr, radius, include_self=include_self, max_bytes=max_bytes)
    return graph_from_edges(
        pos, ptr, edges, cutoff=float(radius), numbers=numbers, node_scalars=node_scalars, node_vectors=node_vectors
    )


def graph_from_edges(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    edges: PointEdges,
    *,
    cutoff: float = float("inf"),
    numbers: Int[Tensor, " N"] | None = None,
    node_scalars: Float[Tensor, "N S"] | None = None,
    node_vectors: Float[Tensor, "N V 3"] | None = None,
) -> Graph:
    """The graph of points without periodicity whose edges are known.

    Raises:
        InputError: edges between other points than these.
    """
    if edges.num_senders != len(pos) or edges.num_receivers != len(pos):
        raise InputError(
            "the edges are not of these points",
            expected=f"{len(pos)} senders and receivers",
            got=f"{edges.num_senders} and {edges.num_receivers}",
        )
    num_clouds = len(ptr) - 1
    graph = Graph(
        pos=pos,
        numbers=torch.zeros(len(pos), dtype=torch.int64, device=pos.device) if numbers is None else numbers,
        edge_index=torch.stack([edges.src, edges.dst]),
        edge_ptr=edges.edge_ptr,
        cell_shift=edges.src.new_zeros(edges.num_edges, 3),
        cell=pos.new_zeros(num_clouds, 3, 3),
        pbc=torch.zeros(num_clouds, 3, dtype=torch.bool, device=pos.device),
        batch=ptr_to_batch(ptr),
        ptr=ptr,
        cutoff=cutoff,
        node_scalars=node_scalars,
        node_vectors=node_vectors,
    )
    graph.__dict__["is_periodic"] = False  # known here without asking the device
    return graph
