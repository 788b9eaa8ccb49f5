"""Graphs of fixed size: with atoms more than the structures have, which hold the pairs that they have not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geomol.errors import CapacityError
from geomol.graph import Graph

GHOSTS = 2  # at least: one that receives and one that sends
_PER_GHOST = 512  # pairs of the room for each ghost that receives: on a GPU one program walks all that come to an atom
_FAR = 10.0  # Å, between ghosts that send and receive where there is no cutoff


def pad_graph(graph: Graph, num_edges: int) -> Graph:
    """A structure with ghosts at its end, as many as `num_edges` asks for, and `num_edges` pairs in all.

    The second half of the ghosts sends the surplus pairs to the first, from beyond the cutoff, where messages and their
    derivatives vanish; no pair joins them to the atoms. Node energies, forces and the strain derivative of the atoms
    are those of the structure alone; the energy of the structure is the sum over its own atoms.

    Raises:
        CapacityError: the structure has more pairs than that.
    """
    ghosts = GHOSTS * (1 + num_edges // _PER_GHOST)
    return _with_ghosts(
        graph,
        ghosts,
        num_edges,
        batch=torch.cat([graph.batch, graph.batch.new_zeros(ghosts)]),
        ptr=graph.ptr + torch.tensor([0, ghosts], device=graph.device),
    )


def pad_batch(graph: Graph, num_nodes: int, num_edges: int) -> Graph:
    """Structures and behind them one more, of ghosts, so that there are `num_nodes` atoms and `num_edges` pairs in all.

    All results of the structures themselves come first and are unchanged; see `pad_graph`.

    Raises:
        CapacityError: more atoms or pairs than that; there are two ghosts at least.
    """
    ghosts = num_nodes - graph.num_nodes
    if ghosts < GHOSTS:
        raise CapacityError(
            "more atoms than there is room for", expected=f"at most {num_nodes - GHOSTS}", got=str(graph.num_nodes)
        )
    return _with_ghosts(
        graph,
        ghosts,
        num_edges,
        batch=torch.cat([graph.batch, graph.batch.new_full((ghosts,), graph.num_graphs)]),
        ptr=torch.cat([graph.ptr, graph.ptr[-1:] + ghosts]),
        cell=torch.cat([graph.cell, graph.cell.new_zeros(1, 3, 3)]),
        pbc=torch.cat([graph.pbc, graph.pbc.new_zeros(1, 3)]),
    )


def _with_ghosts(graph: Graph, ghosts: int, num_edges: int, **belonging: Tensor) -> Graph:
    """A graph with ghosts at the end and pairs among them; `belonging` says to which structure they belong."""
    surplus = num_edges - graph.num_edges
    if surplus < 0:
        raise CapacityError(
            "more pairs than there is room for", expected=f"at most {num_edges}", got=str(graph.num_edges)
        )
    half, device = ghosts // 2, graph.device  # the first half receives, the second sends
    pos = graph.pos.new_zeros(ghosts, 3)
    pos[half : 2 * half, 2] = 1.5 * graph.cutoff if math.isfinite(graph.cutoff) else _FAR
    receiver = torch.arange(surplus, device=device) * half // max(surplus, 1)  # spread evenly
    ends = graph.num_edges + torch.searchsorted(receiver, torch.arange(1, half + 1, device=device))
    rest = ends.new_full((ghosts - half,), num_edges)
    pairs = graph.num_nodes + torch.stack([receiver + half, receiver])
    padded = graph.replace(
        pos=torch.cat([graph.pos, pos]),
        numbers=torch.cat([graph.numbers, graph.numbers[:1].expand(ghosts)]),
        edge_index=torch.cat([graph.edge_index, pairs], dim=1),
        edge_ptr=torch.cat([graph.edge_ptr, ends, rest]),
        cell_shift=torch.cat([graph.cell_shift, graph.cell_shift.new_zeros(surplus, 3)]),
        **belonging,
    )
    if "send_perm" in graph.__dict__:
        added = torch.arange(graph.num_edges, num_edges, device=device)
        none_yet = ends.new_full((half,), graph.num_edges)
        send_ptr = torch.cat([graph.send_ptr, none_yet, ends, rest[half:]])
        padded.__dict__.update(send_perm=torch.cat([graph.send_perm, added]), send_ptr=send_ptr)
    return padded


def unpad(values: list[Tensor], atoms: int) -> list[Tensor]:
    """Results of a step on a padded structure, as those of the structure."""
    _, node_energy, force, *virial = values
    return [node_energy[:atoms].sum()[None], node_energy[:atoms], force[:atoms], *virial]
