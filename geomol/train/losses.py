"""What training minimises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.graph import Graph
from geomol.potential import Prediction
from geomol.train.sections import LossConfig


@dataclass(frozen=True, eq=False)
class Labels:
    """Reference values of a batch: energy (G,) eV, forces (N, 3) eV/Å, stress (G, 3, 3) eV/Å³."""

    energy: Float[Tensor, " G"]
    forces: Float[Tensor, "N 3"] | None = None
    stress: Float[Tensor, "G 3 3"] | None = None


def potential_loss(
    predicted: Prediction, labels: Labels, graph: Graph, scale: float, config: LossConfig
) -> Float[Tensor, ""]:
    """Weighted sum of energy, force and stress errors in units of `scale` (eV/Å); see `LossConfig`.

    Stress enters as virial per atom, σ V / N, which has the size of a force times a bond length whatever the cell.
    """
    num_atoms = graph.ptr.diff()
    energy_error = (predicted.energy - labels.energy) / scale
    if config.per_atom:
        energy_error = energy_error / num_atoms
    terms = [config.energy * _mean(energy_error[:, None], config.kind)]
    if config.forces and predicted.forces is not None and labels.forces is not None:
        terms.append(config.forces * _mean((predicted.forces - labels.forces) / scale, config.kind))
    if config.stress and predicted.stress is not None and labels.stress is not None:
        volume = torch.linalg.det(graph.cell).abs()
        virial_error = (predicted.stress - labels.stress) * (volume / num_atoms / scale)[:, None, None]
        terms.append(config.stress * _mean(virial_error.flatten(1), config.kind))
    return torch.stack(terms).sum()


def _mean(error: Float[Tensor, "R D"], kind: str) -> Float[Tensor, ""]:
    if kind == "mse":
        return error.square().mean()
    # the tiny offset keeps the derivative finite where the error is exactly zero
    return (error.square().sum(-1) + 1e-12).sqrt().mean()
