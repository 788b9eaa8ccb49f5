"""Reference points of the n-body task: motion without forces, and a field of radial forces."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, Symmetry
from geomol.models.plain_inputs import charges, mlp
from geomol.nn import safe_norm
from geomol.ops import gather_receivers, gather_senders, sum_to_receivers

_PHI_GAIN = 1e-3  # Xavier gain of the last layer of φ in the authors' code: forces start almost at zero


def _velocity(graph: Graph, dtype: torch.dtype) -> Float[Tensor, "N 3"]:
    got = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
    if graph.node_vectors is None or got != 1:
        raise ConfigError("`node_vectors` does not fit the model", expected="1 vector, the velocity", got=str(got))
    return graph.node_vectors[:, 0].to(dtype)


class LinearMotion(nn.Module):
    """Free flight, x + t v, with one learned time t for all particles.

    Source: the "Linear" baseline of Satorras, Hoogeboom, Welling, ICML 2021 (arXiv:2102.09844), table 2. Symmetry:
    E(3), exact; scalars are empty, the vector is the displacement t v.

    Args:
        time: t at the start, in the unit of positions over velocities; the default is that of the authors' code.
        cutoff: radius of the graph, whose edges are not read, Å.

    Raises:
        ConfigError: at call, a graph without velocities.
    """

    def __init__(self, *, time: float = 0.7, cutoff: float = math.inf) -> None:
        super().__init__()
        self.config: dict[str, object] = {"time": time, "cutoff": cutoff}
        self.cutoff, self.in_vectors, self.out_scalars, self.out_vectors = float(cutoff), 1, 0, 1
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=True)
        self.time = nn.Parameter(torch.tensor([time]))

    def forward(self, graph: Graph) -> Features:
        velocity = _velocity(graph, self.time.dtype)
        return Features(velocity.new_zeros(len(velocity), 0), (self.time * velocity)[:, None])


class RadialField(nn.Module):
    """Particles that push and pull along the lines between them, with strengths from distances and charges.

        x_i ← x_i + mean_j (x_i − x_j) φ(|x_i − x_j|, q_i q_j, r⁰_ij²) + φ_v(|v_i⁰|) v_i⁰,  φ bounded by tanh

    r⁰ are the distances at the start. Source: the radial field of Köhler, Klein, Noé, ICML 2020 (arXiv:2006.02425), as
    the baseline of Satorras et al. 2021 (arXiv:2102.09844), table 2. Departs from their code: positions of the graph
    are not overwritten. Symmetry: E(3), exact; scalars are empty, the vector is the displacement. With a finite cutoff
    it jumps where a pair enters or leaves, so that it is no form for potentials.

    Args:
        channels: width of φ and φ_v.
        num_layers: number of steps.
        cutoff: radius of the graph, Å; inf for complete graphs.

    Raises:
        ConfigError: at call, a graph without charges or velocities.
    """

    def __init__(self, *, channels: int = 64, num_layers: int = 4, cutoff: float = math.inf) -> None:
        super().__init__()
        self.config: dict[str, object] = {"channels": channels, "num_layers": num_layers, "cutoff": cutoff}
        self.cutoff, self.in_vectors, self.out_scalars, self.out_vectors = float(cutoff), 1, 0, 1
        complete = math.isinf(self.cutoff)
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=complete, separable=not complete)
        self.pull = nn.ModuleList(_pull(channels) for _ in range(num_layers))
        self.keep = nn.ModuleList(mlp(1, channels, 1) for _ in range(num_layers))

    def forward(self, graph: Graph) -> Features:
        dtype = next(self.parameters()).dtype
        velocity, start = _velocity(graph, dtype), edge_vectors(graph, dtype)
        charge = charges(graph, dtype)
        product = gather_receivers(charge, graph) * gather_senders(charge, graph)
        given = torch.cat([product, start.square().sum(1, keepdim=True)], dim=1)
        degree = graph.edge_ptr.diff().clamp(min=1).to(dtype)[:, None]
        speed = safe_norm(velocity)[:, None]
        moved = torch.zeros_like(velocity)
        for pull, keep in zip(self.pull, self.keep, strict=True):
            vec = start + gather_senders(moved, graph) - gather_receivers(moved, graph)
            strength = pull(torch.cat([safe_norm(vec)[:, None], given], dim=1))
            # x_i − x_j is minus the vector from receiver to sender
            moved = moved + sum_to_receivers(-vec * strength, graph) / degree + keep(speed) * velocity
        return Features(velocity.new_zeros(len(velocity), 0), moved[:, None])


def _pull(channels: int) -> nn.Sequential:
    last = nn.Linear(channels, 1, bias=False)
    nn.init.xavier_uniform_(last.weight, gain=_PHI_GAIN)
    return nn.Sequential(nn.Linear(3, channels), nn.SiLU(), last, nn.Tanh())
