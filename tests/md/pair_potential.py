"""A small analytic potential with the call signature of `geomol.Potential`, for tests of what stands around models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geomol.graph import Graph, edge_vectors
from geomol.models.base import Symmetry


@dataclass(frozen=True)
class PairPrediction:
    energy: Tensor
    node_energy: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None


class PairPotential(nn.Module):
    """Morse pairs, D (e^{-2a(r-r0)} − 2 e^{-a(r-r0)}), times (1 − (r/rc)²)³ where rc is finite."""

    symmetry = Symmetry(group="E(3)", exact=True, smooth=True)

    def __init__(
        self,
        *,
        cutoff: float = 6.0,
        depth: float = 0.34,
        width: float = 1.36,
        r0: float = 2.87,
        elements: tuple[int, ...] = (29,),
        e0: float = -1.5,
        conservative: bool = True,
    ) -> None:
        super().__init__()
        self.cutoff, self.width, self.r0, self.e0 = cutoff, width, r0, e0
        self.elements, self.conservative = list(elements), conservative
        self.depth = nn.Parameter(torch.tensor(depth, dtype=torch.float64))

    def forward(self, graph: Graph, *, forces: bool = True, stress: bool = False) -> PairPrediction:
        with torch.enable_grad():
            strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
            pos = graph.pos.detach().requires_grad_()
            deform = torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T)
            moved = graph.replace(pos=pos @ deform, cell=graph.cell @ deform)
            r = edge_vectors(moved).norm(dim=1)
            bond = torch.exp(-self.width * (r - self.r0))
            pair = self.depth * (bond**2 - 2 * bond) * torch.clamp(1 - (r / self.cutoff) ** 2, min=0) ** 3
            zero = torch.zeros(graph.num_nodes, dtype=torch.float64)
            node_energy = self.e0 + 0.5 * zero.index_add(0, graph.dst, pair)
            energy = node_energy.sum()
            grads = torch.autograd.grad(energy, [pos, strain], allow_unused=True, materialize_grads=True)
        volume = torch.linalg.det(graph.cell).abs()
        stress_value = (grads[1][None] / volume[:, None, None]) if stress else None
        return PairPrediction(energy.detach()[None], node_energy.detach(), -grads[0] if forces else None, stress_value)
