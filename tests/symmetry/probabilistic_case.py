"""Networks without symmetry under poses drawn with noise that can be handed over; charged particles."""

from __future__ import annotations

import math
from typing import Any

import torch
from ase import Atoms
from symmetry.canonical_case import atoms, gen, graph_of
from torch import Tensor, nn

from geomol.graph import Graph, build_graph
from geomol.models.mpnn import MPNN
from geomol.models.pair_transformer import PairTransformer
from geomol.symmetry.probabilistic import ProbabilisticSymmetrisation

ELEMENTS = [1, 6, 8]
POSES: dict[str, dict[str, Any]] = {
    "egnn_vectors": {"name": "egnn_vectors", "channels": 8, "num_noise": 2},
    "vn_deep_sets": {"name": "vn_deep_sets", "features": "p", "channels": 8, "num_layers": 2},
    "vn_dgcnn": {"name": "vn_dgcnn", "in_vectors": 0, "channels": 6},
    "vn_small": {"name": "vn_small", "num_neighbours": 4, "channels": 8},
}


class GivenNoise(ProbabilisticSymmetrisation):
    """Noise can be handed over, to turn it with the structure."""

    given: Tensor | None = None

    def noise(self, graph: Graph) -> Tensor:
        return super().noise(graph) if self.given is None else self.given


def backbone(**changes: Any) -> MPNN:
    torch.manual_seed(0)
    settings = {"elements": ELEMENTS, "channels": 12, "num_layers": 2, "cutoff": 4.0, "out_vectors": 1}
    model = MPNN(**{**settings, **changes}).double()
    model.calibrate(graph_of(atoms(), atoms(1)))  # else it hardly notices the orientation
    return model


def make(pose: str = "egnn_vectors", **changes: Any) -> GivenNoise:
    inner = backbone()
    torch.manual_seed(1)
    group = "SE(3)" if pose == "vn_small" else "E(3)"
    return GivenNoise(inner, pose=POSES[pose], **{"group": group, "samples": 4, **changes}).double().eval()


def moved(graph: Graph, turn: Tensor) -> Graph:
    vectors = None if graph.node_vectors is None else graph.node_vectors @ turn.T
    return graph.replace(pos=graph.pos @ turn.T + 1.5, node_vectors=vectors)


def vectors_of(model: nn.Module, graph: Graph) -> Tensor:
    vectors: Tensor = model(graph).vectors
    return vectors


def particles(num: int = 2, size: int = 5, seed: int = 0) -> Graph:
    """Complete graphs of charged particles."""
    g = gen(seed)
    frames = [Atoms(f"X{size}", positions=2 * torch.randn(size, 3, generator=g).numpy()) for _ in range(num)]
    graph = build_graph(frames, math.inf, complete=True)
    charge = torch.randint(0, 2, (num * size, 1), generator=g).double() * 2 - 1
    return graph.replace(
        node_scalars=charge, node_vectors=torch.randn(num * size, 1, 3, generator=g, dtype=torch.float64)
    )


def ordered(**changes: Any) -> GivenNoise:
    torch.manual_seed(0)
    inner = PairTransformer(
        num_nodes=5, in_scalars=1, in_vectors=1, channels=8, num_heads=2, ff_channels=8, num_layers=1
    )
    nn.init.normal_(inner.code)
    pose = {"name": "vn_dgcnn", "channels": 6}
    settings: dict[str, Any] = {"samples": 3, "permutations": True, **changes}
    return GivenNoise(inner, pose=pose, **settings).double().eval()
