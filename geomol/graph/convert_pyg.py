"""Graph to and from PyTorch Geometric's `Data` and `Batch`.

PyG is imported where it is called for: that takes longer than all of geomol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geomol.errors import InputError
from geomol.graph.checks import check_cutoff
from geomol.graph.record import Graph
from geomol.graph.store import GraphStore

if TYPE_CHECKING:
    from torch_geometric.data import Data


def graph_to_pyg(graph: Graph) -> Data:
    """A `Data` for one structure, a `Batch` for several.

    The fields are `z`, `pos`, `edge_index`, `cell_shift`, `cell` (1, 3, 3), `pbc` (1, 3), `cutoff` (1,), and
    `node_scalars` and `node_vectors` where the graph has them. Edges keep their order, senders in row 0.
    """
    from torch_geometric.data import Batch, Data

    ptr, edge_ptr = graph.ptr.tolist(), graph.edge_ptr[graph.ptr].tolist()
    parts = []
    for k in range(graph.num_graphs):
        nodes, edges = slice(ptr[k], ptr[k + 1]), slice(edge_ptr[k], edge_ptr[k + 1])
        data = Data(
            z=graph.numbers[nodes],
            pos=graph.pos[nodes],
            edge_index=graph.edge_index[:, edges] - ptr[k],
            cell_shift=graph.cell_shift[edges],
            cell=graph.cell[k : k + 1],
            pbc=graph.pbc[k : k + 1],
            cutoff=graph.pos.new_tensor([graph.cutoff], dtype=torch.float64),
        )
        for name in ("node_scalars", "node_vectors"):
            value = getattr(graph, name)
            if value is not None:
                data[name] = value[nodes]
        parts.append(data)
    return parts[0] if len(parts) == 1 else Batch.from_data_list(parts)


def graph_from_pyg(data: Data, cutoff: float | None = None) -> Graph:
    """The graph of a `Data` or `Batch`.

    Edges are taken as they are and sorted by receiver (stable, so that sorted ones keep their order). Data without
    `edge_index` gets its neighbours within `cutoff`.

    Args:
        data: with `pos`, and optionally `z`, `edge_index`, `cell_shift`, `cell`, `pbc`, `cutoff`, `node_scalars`,
            `node_vectors`.
        cutoff: Å; by default the one of the data, or inf for given edges.

    Raises:
        InputError: if `pos` is missing, an edge has no place in its structure, or a periodic structure has edges
            without `cell_shift`.
        ConfigError: if there are neither edges nor a cutoff.
    """
    pos = data.pos
    if not isinstance(pos, Tensor):
        raise InputError("PyG data has no positions", expected="an attribute pos (N, 3)", got=str(data.keys()))
    ptr, batch = _structures(data, pos)
    num_graphs = len(ptr) - 1
    numbers = data["z"] if "z" in data else ptr.new_zeros(len(pos))
    cell = data["cell"].reshape(num_graphs, 3, 3) if "cell" in data else pos.new_zeros(num_graphs, 3, 3)
    pbc = data["pbc"].reshape(num_graphs, 3) if "pbc" in data else ptr.new_zeros(num_graphs, 3, dtype=torch.bool)
    if cutoff is None and "cutoff" in data:
        cutoff = float(torch.as_tensor(data["cutoff"]).max())
    inputs = {name: getattr(data, name, None) for name in ("node_scalars", "node_vectors")}
    if data.edge_index is None:
        atoms, z, bounds, cells, axes = (value.detach().cpu() for value in (pos, numbers, ptr, cell, pbc))
        store = GraphStore.from_arrays(atoms, z, bounds, cells, axes, check_cutoff(cutoff), device=pos.device)
        return store.batch(range(num_graphs)).replace(pos=pos, cell=cell, **inputs)
    order = torch.argsort(data.edge_index[1], stable=True)
    edge_index = data.edge_index[:, order]
    _check_edges(edge_index, batch)
    if "cell_shift" in data:
        shift = data["cell_shift"][order]
    elif bool(pbc.any()):
        raise InputError("periodic PyG data has edges without cell_shift", expected="an attribute cell_shift (E, 3)")
    else:
        shift = edge_index.new_zeros(edge_index.shape[1], 3)
    counts = torch.bincount(edge_index[1], minlength=len(pos))
    return Graph(
        pos=pos,
        numbers=numbers,
        edge_index=edge_index,
        edge_ptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        cell_shift=shift,
        cell=cell,
        pbc=pbc,
        batch=batch,
        ptr=ptr,
        cutoff=float("inf") if cutoff is None else cutoff,
        node_scalars=inputs["node_scalars"],
        node_vectors=inputs["node_vectors"],
    )


def _structures(data: Data, pos: Tensor) -> tuple[Tensor, Tensor]:
    """`ptr` and `batch`, from whichever of them the data has."""
    batch = getattr(data, "batch", None)
    if batch is None:
        batch = torch.zeros(len(pos), dtype=torch.int64, device=pos.device)
    elif bool((batch.diff() < 0).any()):
        raise InputError("nodes of the PyG data are not grouped by structure", expected="an ascending batch vector")
    if "ptr" in data:
        return data["ptr"], batch
    counts = torch.bincount(batch, minlength=1)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), batch


def _check_edges(edge_index: Tensor, batch: Tensor) -> None:
    """Edges that join two nodes of one structure."""
    if edge_index.numel() == 0:
        return
    low, high = int(edge_index.min()), int(edge_index.max())
    if low < 0 or high >= len(batch):
        got = f"{low} to {high}"
        raise InputError("edge_index names nodes that do not exist", expected=f"0 to {len(batch) - 1}", got=got)
    if bool((batch[edge_index[0]] != batch[edge_index[1]]).any()):
        raise InputError("an edge joins nodes of two structures")
