"""Net force and net torque, and their identities: for an energy, L_translation E = −net force, L_rotation E = −net
torque. A model whose forces are not the gradient of its energy breaks them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.graph import Graph
from geomol.ops import segment_sum
from geomol.symmetry.audit.lie import LieDerivative, centres


@dataclass(frozen=True, eq=False)
class Momentum:
    """What an isolated structure cannot have.

    Attributes:
        force: Σ F, eV/Å.
        torque: Σ (x − x̄) × F, eV.
        force_scale, torque_scale: Σ |F| and Σ |x − x̄| |F| per structure: what the sums could have been.
    """

    force: Float[Tensor, "G 3"]
    torque: Float[Tensor, "G 3"]
    force_scale: Float[Tensor, " G"]
    torque_scale: Float[Tensor, " G"]


def momentum(graph: Graph, forces: Float[Tensor, "N 3"]) -> Momentum:
    """Net force and net torque (about the centroid) of every structure."""
    arms = (graph.pos - centres(graph)[graph.batch]).to(forces.dtype)
    size, lever = forces.norm(dim=1), arms.norm(dim=1)
    return Momentum(
        force=segment_sum(forces, graph.ptr),
        torque=segment_sum(torch.linalg.cross(arms, forces), graph.ptr),
        force_scale=segment_sum(size, graph.ptr),
        torque_scale=segment_sum(size * lever, graph.ptr),
    )


def identity_errors(
    graph: Graph, forces: Float[Tensor, "N 3"], lie: list[LieDerivative], *, output: str = "energy"
) -> tuple[float, float]:
    """Largest |L_trans E + net force| relative to Σ|F|, and |L_rot E + net torque| relative to Σ|x||F|.

    0 up to rounding where forces are −∂E/∂x. Turning a crystal turns its cell as well, to which the torque of the atoms
    is not the whole answer: the second is for structures without periodicity.
    """
    found = momentum(graph, forces)
    rates = {
        kind: [d.value for d in lie if d.output == output and d.generator.kind == kind]
        for kind in ("translation", "rotation")
    }
    shift, turn = (torch.stack(rates[kind], dim=-1) for kind in ("translation", "rotation"))
    tiny = torch.finfo(torch.float64).tiny
    force = (shift.reshape(-1, 3) + found.force).abs().amax(1) / found.force_scale.clamp(min=tiny)
    torque = (turn.reshape(-1, 3) + found.torque).abs().amax(1) / found.torque_scale.clamp(min=tiny)
    return float(force.max()), float(torque.max())
