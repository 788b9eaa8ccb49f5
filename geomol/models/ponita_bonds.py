"""A cloud of bonds: every directed edge becomes a point with an orientation, PONITA's exactly equivariant mode."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.graph import Graph, edge_vectors
from geomol.nn import safe_norm
from geomol.ops import gather_receivers, gather_senders, segment_index, segment_mean


def _ragged_product(count: Int[Tensor, " P"], start: Int[Tensor, " P"]) -> tuple[Tensor, Tensor]:
    """For each p the run start[p], start[p] + 1, … of length count[p]: (index of p, element), concatenated."""
    total = int(count.sum())
    ptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
    which = segment_index(ptr, total)
    return which, torch.arange(total, device=count.device) - ptr[which] + start[which]


def lift_to_bonds(graph: Graph, dtype: torch.dtype) -> tuple[Graph, Float[Tensor, "M 3"], Int[Tensor, " M"]]:
    """Points = directed edges, at the receiving atom, oriented towards the sender; joined where their atoms are joined
    or equal.

    Returns:
        The lifted graph (numbers, positions and edges of the points), the orientations, and the atom of each point.
        Points are ordered as the edges of `graph`; an atom without edges has no point.
    """
    vec = edge_vectors(graph, dtype)
    ori = vec / safe_norm(vec)[:, None]
    atom_of = graph.dst
    # pairs (receiving atom, sending atom): each atom with itself and with its neighbours
    atoms = torch.arange(graph.num_nodes, device=graph.device)
    pair_dst, pair_src = torch.cat([atoms, graph.dst]), torch.cat([atoms, graph.src])
    pair_shift = torch.cat([graph.cell_shift.new_zeros(graph.num_nodes, 3), graph.cell_shift])
    num_points = graph.edge_ptr.diff()
    pair, receiver = _ragged_product(num_points[pair_dst], graph.edge_ptr[pair_dst])
    entry, sender = _ragged_product(num_points[pair_src[pair]], graph.edge_ptr[pair_src[pair]])
    receiver, shift = receiver[entry], pair_shift[pair[entry]]
    order = torch.argsort(receiver, stable=True)
    edge_index = torch.stack([sender, receiver])[:, order]
    counts = torch.bincount(receiver, minlength=graph.num_edges)
    lifted = dataclasses.replace(
        graph,
        pos=gather_receivers(graph.pos, graph),
        numbers=graph.numbers[atom_of],
        edge_index=edge_index,
        edge_ptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        cell_shift=shift[order],
        batch=graph.batch[atom_of],
        ptr=graph.edge_ptr[graph.ptr],
        node_scalars=None,
        node_vectors=None,
    )
    return lifted, ori, atom_of


def bond_attributes(lifted: Graph, ori: Float[Tensor, "M 3"], vec: Float[Tensor, "E 3"]) -> Float[Tensor, "E 3"]:
    """(r·o, |r − (r·o)o|, o·o′) with o of the receiver and o′ of the sender."""
    o_recv, o_send = gather_receivers(ori, lifted), gather_senders(ori, lifted)
    along = (vec * o_recv).sum(-1)
    across = safe_norm(vec - along[:, None] * o_recv)
    return torch.stack([along, across, (o_recv * o_send).sum(-1)], dim=-1)


def mean_over_bonds(values: Float[Tensor, "M *F"], graph: Graph) -> Float[Tensor, "N *F"]:
    """Mean over the points of each atom (0 for an atom without any)."""
    return segment_mean(values, graph.edge_ptr)
