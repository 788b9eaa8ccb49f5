"""Nuclear repulsion at short range."""

from __future__ import annotations

import ase.data
import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.graph import Graph, edge_vectors
from geomol.nn.envelope import polynomial_envelope
from geomol.ops import gather_receivers, gather_senders, sum_to_receivers

COULOMB = 14.399645478425668  # e²/(4π ε0) in eV Å, CODATA 2018
BOHR = 0.529177210903  # Å
EXPONENTS = (-3.19980, -0.94229, -0.40290, -0.20162)
COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)


class ZBL(nn.Module):
    """Universal screened nuclear repulsion, switched off smoothly at the sum of the covalent radii.

    V(r) = k Z_i Z_j / r · φ(r / a), a = 0.88534 a_0 / (Z_i^0.23 + Z_j^0.23), φ a sum of four exponentials. Source:
    Ziegler, Biersack, Littmark, "The Stopping and Range of Ions in Solids" (1985). The envelope (DimeNet polynomial, p
    = 6) is ours: it leaves bonded distances to the trained model and keeps atoms apart where there are no data.
    Energies in eV, half of each pair per atom.
    """

    radii: Tensor
    exponents: Tensor
    coefficients: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("radii", torch.from_numpy(ase.data.covalent_radii), persistent=False)
        self.register_buffer("exponents", torch.tensor(EXPONENTS, dtype=torch.float64), persistent=False)
        self.register_buffer("coefficients", torch.tensor(COEFFICIENTS, dtype=torch.float64), persistent=False)

    def forward(self, graph: Graph) -> Float[Tensor, " N"]:
        length = edge_vectors(graph, graph.pos.dtype).square().sum(-1).sqrt()
        charge = graph.numbers.to(length.dtype)
        zi, zj = gather_receivers(charge, graph), gather_senders(charge, graph)
        radii = self.radii.to(length.dtype)[graph.numbers]
        reach = gather_receivers(radii, graph) + gather_senders(radii, graph)
        x = length * (zi**0.23 + zj**0.23) / (0.88534 * BOHR)
        screening = torch.exp(x[:, None] * self.exponents.to(x.dtype)) @ self.coefficients.to(x.dtype)
        pair = COULOMB * zi * zj / length * screening * polynomial_envelope(length / reach)
        return 0.5 * sum_to_receivers(pair, graph)
