"""Small analytic models with one planted fault each, and one without: what the audit must tell apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geomol.graph import Graph, edge_vectors
from geomol.models import Symmetry
from geomol.ops import gather_receivers, gather_senders, segment_sum, sum_to_receivers
from geomol.symmetry.actions import TARGETS, act_on_graph
from geomol.symmetry.groups import identity

KINDS = {name: TARGETS[name] for name in ("energy", "forces")}
E3 = Symmetry(group="E(3)", exact=True, smooth=True)
NodeEnergy = Callable[[Graph], Tensor]


def pairs(graph: Graph) -> Tensor:
    """Exact: a smooth function of the distances, weighted by the elements."""
    squared = edge_vectors(graph).square().sum(1)
    window = (1 - squared / graph.cutoff**2).clamp(min=0) ** 4
    charge = 1 + 0.1 * graph.numbers.to(graph.pos.dtype)
    weight = gather_senders(charge[:, None], graph)[:, 0] * gather_receivers(charge[:, None], graph)[:, 0]
    return sum_to_receivers(torch.exp(-squared / 4) * window * weight, graph)


def reads_z(graph: Graph) -> Tensor:
    """The raw z coordinate."""
    return pairs(graph) + 0.05 * torch.sin(graph.pos[:, 2])


def reads_bond_z(graph: Graph) -> Tensor:
    """z of the relative vectors: translations hold, rotations about z hold."""
    vec = edge_vectors(graph)
    return pairs(graph) + 0.05 * sum_to_receivers(vec[:, 2].square() * torch.exp(-vec.square().sum(1)), graph)


def tells_hands_apart(graph: Graph) -> Tensor:
    """A sum of triple products of smooth vectors: rotations hold, reflections do not."""
    vec = edge_vectors(graph)
    shells = [sum_to_receivers(vec * torch.exp(-k * vec.square().sum(1))[:, None], graph) for k in (0.2, 0.5, 1.0)]
    numbers = graph.numbers[graph.src, None].to(vec.dtype)
    shells[1] = sum_to_receivers(numbers * vec * torch.exp(-vec.square().sum(1))[:, None], graph)
    return pairs(graph) + 0.05 * torch.linalg.det(torch.stack(shells, dim=1))


def counts_nodes(graph: Graph) -> Tensor:
    """The number of the node within its structure."""
    number = torch.arange(graph.num_nodes) - graph.ptr[graph.batch]
    return pairs(graph) * (1 + 0.01 * number)


def loses_digits(graph: Graph) -> Tensor:
    """Coordinates in single precision before they are subtracted."""
    return pairs(graph.replace(pos=graph.pos.float())).double()


def sorts_axes(graph: Graph) -> Tensor:
    """A frame of principal axes, by size: the outputs jump where two of them are equally long."""
    mean = segment_sum(graph.pos, graph.ptr) / graph.ptr.diff()[:, None]
    arms = graph.pos - mean[graph.batch]
    spread = segment_sum(arms[:, :, None] * arms[:, None, :], graph.ptr)
    axes = torch.linalg.eigh(spread).eigenvectors
    along = torch.einsum("nk,nka->na", arms, axes[graph.batch])
    return pairs(graph) + 0.05 * torch.cos(along @ torch.tensor([0.5, 0.9, 1.3], dtype=along.dtype)[:, None])[
        :, 0
    ] * torch.cos(along).prod(1)


def model_of(node_energy: NodeEnergy, *, curl: float = 0.0) -> Callable[[Graph], dict[str, Tensor]]:
    """Energy and its forces; with `curl`, forces of which a part (still equivariant) is no gradient."""

    def model(graph: Graph) -> dict[str, Tensor]:
        with torch.enable_grad():
            pos = graph.pos if graph.pos.requires_grad else graph.pos.view_as(graph.pos).requires_grad_()
            moved = graph.replace(pos=pos)
            energy = segment_sum(node_energy(moved), graph.ptr)
            (slope,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
        forces = -slope
        if curl:
            vec = edge_vectors(moved)
            push = vec * (curl * graph.numbers[graph.src].to(vec.dtype) * torch.exp(-vec.square().sum(1)))[:, None]
            forces = forces + sum_to_receivers(push, graph)
        return {"energy": energy, "forces": forces}

    return model


class Chain(nn.Module):
    """Three layers of invariants; those named as culprits also read z of the relative vectors."""

    def __init__(self, *culprits: int, vectors: bool = False) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({f"stage {k}": Stage(k, broken=k in culprits) for k in range(3)})
        self.vectors = Vectors() if vectors else None

    def forward(self, graph: Graph) -> dict[str, Tensor]:
        x = 0.1 * graph.numbers.to(graph.pos.dtype)
        for stage in self.stages.values():
            x = stage(x, graph)
        if self.vectors is not None:
            vec = edge_vectors(graph)
            other = sum_to_receivers(vec * torch.exp(-0.3 * vec.square().sum(1))[:, None], graph)
            x = x + (self.vectors(graph) * other).sum(1)
        return {"label": segment_sum(x, graph.ptr)}


class Stage(nn.Module):
    def __init__(self, number: int, *, broken: bool) -> None:
        super().__init__()
        self.number, self.broken = number, broken

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        vec = edge_vectors(graph)
        weight = torch.exp(-vec.square().sum(1) / (2 + self.number))
        if self.broken:
            weight = weight * (1 + 0.3 * vec[:, 2])
        return torch.tanh(x + sum_to_receivers(gather_senders(x[:, None], graph) * weight[:, None], graph)[:, 0])


class Vectors(nn.Module):
    """A vector per node, of differing direction."""

    def forward(self, graph: Graph) -> Tensor:
        vec = edge_vectors(graph)
        return sum_to_receivers(vec * torch.exp(-vec.square().sum(1))[:, None], graph)


__all__ = ["act_on_graph", "edge_vectors", "identity", "segment_sum", "sum_to_receivers"]
