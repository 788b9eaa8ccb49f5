"""Rattled molecules, learned poses around a network without symmetry, and how far it is from following."""

from __future__ import annotations

from typing import Any

import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor, nn

from geomol.graph import Graph, build_graph
from geomol.models.mpnn import MPNN
from geomol.symmetry.canonical import Canonicalised

ELEMENTS = [1, 6, 8, 14]
POSES: dict[str, dict[str, Any]] = {
    "egnn_vectors": {"name": "egnn_vectors", "channels": 8},
    "vn_deep_sets": {"name": "vn_deep_sets", "features": "p", "channels": 8, "num_layers": 2},
    "vn_dgcnn": {"name": "vn_dgcnn", "in_vectors": 0, "channels": 6},
    "vn_small": {"name": "vn_small", "num_neighbours": 4, "channels": 8, "pooling": "max"},
}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def backbone(**changes: Any) -> MPNN:
    """A network without any rotational symmetry."""
    torch.manual_seed(0)
    settings = {"elements": ELEMENTS, "channels": 12, "num_layers": 2, "cutoff": 4.0, "out_vectors": 1}
    model = MPNN(**{**settings, **changes}).double()
    frame = molecule("CH3CH2OH")
    model.calibrate(build_graph([frame], 4.0))  # else it hardly notices the orientation
    return model


def make(pose: str = "egnn_vectors", **changes: Any) -> Canonicalised:
    inner = backbone()
    torch.manual_seed(1)
    group = "SE(3)" if pose == "vn_small" else "E(3)"
    return Canonicalised(inner, pose=POSES[pose], **{"group": group, **changes}).double().eval()


def atoms(seed: int = 0, name: str = "CH3CH2OH") -> Atoms:
    frame = molecule(name)
    frame.rattle(0.1, seed=seed)
    return frame


def graph_of(*frames: Atoms) -> Graph:
    return build_graph(list(frames), 4.0)


def sparse_graph_of(*frames: Atoms) -> Graph:
    """With pairs up to 2 Å: deep sets of positions need a graph that is not complete."""
    return build_graph(list(frames), 2.0)


def moved(graph: Graph, turn: Tensor, shift: Tensor | None = None) -> Graph:
    pos = graph.pos @ turn.T
    cell = graph.cell @ turn.T
    return graph.replace(pos=pos if shift is None else pos + shift, cell=cell)


def error(model: nn.Module, graph: Graph, turn: Tensor, shift: Tensor | None = None) -> float:
    """Largest difference between the prediction for the moved structures and the moved prediction."""
    here, there = model(graph), model(moved(graph, turn, shift))
    assert here.scalars.abs().max() > 1e-3
    assert here.vectors.abs().max() > 1e-3
    wrong = (there.scalars - here.scalars).abs().max(), (there.vectors - here.vectors @ turn.T).abs().max()
    return float(max(wrong).detach())
