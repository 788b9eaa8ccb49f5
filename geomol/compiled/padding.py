"""Graphs of fixed size: two atoms more than the structure has, which hold the pairs that it has not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geomol.errors import CapacityError
from geomol.graph import Graph

GHOSTS = 2
_FAR = 10.0  # Å, between the two where there is no cutoff


def pad_graph(graph: Graph, num_edges: int) -> Graph:
    """A structure with two ghosts at its end and `num_edges` pairs in all.

    The second ghost sends all surplus pairs to the first, from beyond the cutoff, where messages and their derivatives
    vanish; no pair joins them to the atoms. Node energies, forces and the strain derivative of the atoms are those of
    the structure alone; the energy of the structure is the sum over its own atoms.

    Raises:
        CapacityError: the structure has more pairs than that.
    """
    surplus = num_edges - graph.num_edges
    if surplus < 0:
        raise CapacityError(
            "more pairs than there is room for", expected=f"at most {num_edges}", got=str(graph.num_edges)
        )
    atoms = graph.num_nodes
    away = 1.5 * graph.cutoff if math.isfinite(graph.cutoff) else _FAR
    ghosts = graph.pos.new_zeros(GHOSTS, 3)
    ghosts[1, 2] = away
    pair = torch.tensor([[atoms + 1], [atoms]], device=graph.device)
    full, rows = graph.edge_ptr.new_full((GHOSTS,), num_edges), graph.edge_ptr
    padded = graph.replace(
        pos=torch.cat([graph.pos, ghosts]),
        numbers=torch.cat([graph.numbers, graph.numbers[:1].expand(GHOSTS)]),
        edge_index=torch.cat([graph.edge_index, pair.expand(-1, surplus)], dim=1),
        edge_ptr=torch.cat([rows, full]),
        cell_shift=torch.cat([graph.cell_shift, graph.cell_shift.new_zeros(surplus, 3)]),
        batch=torch.cat([graph.batch, graph.batch.new_zeros(GHOSTS)]),
        ptr=graph.ptr + torch.tensor([0, GHOSTS], device=graph.device),
    )
    if "send_perm" in graph.__dict__:
        rest = torch.arange(graph.num_edges, num_edges, device=graph.device)
        last = torch.stack([full[0] - surplus, full[0]])
        padded.__dict__.update(send_perm=torch.cat([graph.send_perm, rest]), send_ptr=torch.cat([graph.send_ptr, last]))
    return padded


def unpad(values: list[Tensor], atoms: int) -> list[Tensor]:
    """Results of a step on a padded structure, as those of the structure."""
    _, node_energy, force, *virial = values
    return [node_energy[:atoms].sum()[None], node_energy[:atoms], force[:atoms], *virial]
