"""Poses of structures, the average of a backbone over them, and what all symmetrisers share."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.graph import Graph, repeat_structures
from geomol.models import Calibrated, Features, Symmetry
from geomol.ops import gather_segments, segment_mean, sum_to_rows


@dataclass(frozen=True, eq=False)
class Poses:
    """P poses g = (rotation, origin) of G structures, each seen from its pose as gᵀ(x − t).

    Attributes:
        rotation: the axes of the pose as columns; positions become (x − origin) @ rotation.
        weight: of each pose in the average; sums to 1 over the poses of a structure.
        structure: which structure each pose belongs to, ascending.
        origin: of each structure, Å.
        back: takes vectors home, v @ back; None stands for the transposed `rotation`, its inverse.
    """

    rotation: Float[Tensor, "P 3 3"]
    weight: Float[Tensor, " P"]
    structure: Int[Tensor, " P"]
    origin: Float[Tensor, "G 3"]
    back: Float[Tensor, "P 3 3"] | None = None


def pose_graph(graph: Graph, poses: Poses) -> tuple[Graph, Int[Tensor, " M"]]:
    """Every structure as seen from each of its poses, in one batch, and the row in `graph` of each of its nodes.

    Positions, velocities and other vectors, and lattice vectors turn together; edges stay.
    """
    graph = graph.replace(pos=graph.pos - poses.origin.to(graph.pos.dtype)[graph.batch])
    seen, node = repeat_structures(graph, poses.structure)
    turn = poses.rotation.to(seen.pos.dtype)
    changes: dict[str, Tensor] = {"pos": _turn(seen, turn), "cell": seen.cell @ turn}
    if seen.node_vectors is not None:
        changes["node_vectors"] = seen.node_vectors @ turn.to(seen.node_vectors.dtype)[seen.batch]
    return seen.replace(**changes), node


def average_over_poses(backbone: nn.Module, graph: Graph, poses: Poses) -> Features:
    """⟨φ⟩(x) = Σ_g w(g) g φ(g⁻¹ x): scalars are averaged, vectors turned back and averaged.

    Source: Puny et al., ICLR 2022 (arXiv:2110.03336), eqs. 3-4, with weights as in Dym et al. (arXiv:2402.16077).
    """
    seen, node = pose_graph(graph, poses)
    out: Features = backbone(seen)
    weight = poses.weight.to(out.scalars.dtype)[seen.batch]
    scalars = _collect(weight[:, None] * out.scalars, node, graph.num_nodes)
    if out.vectors is None:
        return Features(scalars)
    home = poses.rotation.mT if poses.back is None else poses.back
    vectors = out.vectors @ home.to(out.vectors.dtype)[seen.batch]
    return Features(scalars, _collect(weight[:, None, None] * vectors, node, graph.num_nodes))


def _turn(seen: Graph, turn: Float[Tensor, "P 3 3"]) -> Float[Tensor, "M 3"]:
    return torch.bmm(seen.pos[:, None, :], gather_segments(turn, seen.batch, seen.ptr))[:, 0]


def _collect(values: Tensor, node: Tensor, num_nodes: int) -> Tensor:
    if len(node) == num_nodes:  # one pose for each structure: nodes are in their old order
        return values
    return sum_to_rows(values, node, num_nodes)


def centroids(graph: Graph) -> Float[Tensor, "G 3"]:
    """Mean position of each structure, Å; all atoms count alike."""
    return segment_mean(graph.pos, graph.ptr)


def rest_pose(graph: Graph) -> Poses:
    """One pose for each structure: the axes of the lab, at its centroid."""
    eye = torch.eye(3, dtype=graph.pos.dtype, device=graph.device).expand(graph.num_graphs, 3, 3)
    one = torch.ones(graph.num_graphs, dtype=graph.pos.dtype, device=graph.device)
    return Poses(eye, one, torch.arange(graph.num_graphs, device=graph.device), centroids(graph))


class Symmetriser(nn.Module, ABC):
    """A wrapper that lends a symmetry to any backbone by the poses it chooses; itself a backbone.

    Subclasses state `symmetry` (see `_claim`) and `config` (their own arguments without the backbone).

    Args:
        backbone: any entry of `MODELS`, or another symmetriser. In a configuration it is a table of its own,
            {"name": …, …}, see `build_backbone`.
    """

    symmetry: Symmetry

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.config: dict[str, object] = {}
        self.seed = 0
        self.draw = 0

    def _claim(self, group: str, **changes: object) -> None:
        """States the symmetry: the group, with what the backbone cannot lose kept from it."""
        inner: Symmetry = self.backbone.symmetry  # type: ignore[assignment]
        self.symmetry = dataclasses.replace(inner, **{"group": group, "exact": True, "separable": False, **changes})  # type: ignore[arg-type]

    @property
    def cutoff(self) -> float:
        return self.backbone.cutoff  # type: ignore[return-value]

    @abstractmethod
    def poses(self, graph: Graph) -> Poses:
        """The poses from which the structures are looked at."""

    def forward(self, graph: Graph) -> Features:
        return average_over_poses(self.backbone, graph, self.poses(graph))

    def calibrate(self, graph: Graph) -> None:
        """Passes on to the backbone what it would see."""
        if isinstance(self.backbone, Calibrated):
            with torch.no_grad():
                self.backbone.calibrate(pose_graph(graph, self.poses(graph))[0])

    def reseed(self, draw: int) -> None:
        """Chooses the random numbers of the following calls; the trainer does so before each step."""
        self.draw = draw

    def rng(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator that depends on `seed` and, in training, on the draw alone, so that evaluation repeats."""
        draw = self.draw if self.training else 0
        return torch.Generator(device).manual_seed((self.seed * 0x5DEECE66D + draw * 0x9E3779B97F4A7C15 + 11) % 2**63)
