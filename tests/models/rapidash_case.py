"""Settings of a small Rapidash, and random clouds of points for it."""

from __future__ import annotations

import torch

from geomol.graph import Graph, complete_graph

SMALL = {"channels": 8, "basis_dim": 12, "basis_hidden": 8, "num_layers": 2, "in_scalars": 2}


def cloud(num_scalars: int = 2, num_vectors: int = 0, *, sizes: tuple[int, ...] = (5, 4), seed: int = 0) -> Graph:
    rng = torch.Generator().manual_seed(seed)
    num = sum(sizes)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    return complete_graph(
        torch.randn(num, 3, generator=rng, dtype=torch.float64),
        torch.zeros(num, dtype=torch.long),
        ptr,
        node_scalars=torch.randn(num, num_scalars, generator=rng, dtype=torch.float64) if num_scalars else None,
        node_vectors=torch.randn(num, num_vectors, 3, generator=rng, dtype=torch.float64) if num_vectors else None,
    )
