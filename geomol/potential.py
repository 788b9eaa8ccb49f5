"""Energies, and all that follows from them by differentiation: the only place in geomol that differentiates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError, GeomolError
from geomol.graph import Graph
from geomol.models import Symmetry
from geomol.nn import ZBL, SpeciesIndex
from geomol.ops import gather_segments, segment_sum
from geomol.ops.constant import constant_weights
from geomol.symmetry import OnBackbone, backbone_config, build_backbone


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a potential says of a batch of structures; in the precision of the positions.

    Attributes:
        energy: total energy of each structure, eV.
        node_energy: contribution of each atom, eV; sums to `energy`.
        forces: −∂E/∂pos, eV/Å; None if not asked for.
        stress: (1/V) ∂E/∂strain, eV/Å³, positive under tension (ASE's sign); None if not asked for.
    """

    energy: Float[Tensor, " G"]
    node_energy: Float[Tensor, " N"]
    forces: Float[Tensor, "N 3"] | None = None
    stress: Float[Tensor, "G 3 3"] | None = None


class Potential(OnBackbone):
    """E = Σ_i (E0[Z_i] + scale · ε_i) [+ ZBL], with ε_i the single invariant that a backbone gives per node.

    Forces and stress are derivatives of this energy (the stress through a symmetric strain of positions and cell),
    hence conservative. Positions should be float64 also where the weights are float32: edge vectors are formed before
    the cast, and energies are summed in the precision of the positions.

    Args:
        backbone: any entry of `MODELS`, with out_scalars = 1.
        elements: atomic numbers the potential is made for.
        e0: energy of each element, eV, in the same order.
        scale: eV per unit of the backbone's output (the RMS force of the training data by convention).
        zbl: add the screened nuclear repulsion `geomol.nn.ZBL`.
        allow_discontinuous: accept a backbone whose energies jump (plain PCA frames): forces are infinite there, and
            simulations heat up.

    Raises:
        ConfigError: elements and e0 of different length; a discontinuous backbone.
        ModelDomainError: at call, an element outside `elements`.
    """

    conservative = True
    e0: Tensor
    scale: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        elements: Sequence[int],
        e0: Sequence[float],
        scale: float = 1.0,
        zbl: bool = False,
        allow_discontinuous: bool = False,
    ) -> None:
        super().__init__(backbone)
        claimed = cast(Symmetry, backbone.symmetry)
        if not allow_discontinuous:
            check_smooth(claimed)
        if len(elements) != len(e0):
            raise ConfigError("`e0` needs one energy per element", expected=str(len(elements)), got=str(len(e0)))
        self.species = SpeciesIndex(elements)
        self.elements = self.species.elements
        # float64 whatever the weights are: total energies of 10⁴ eV would lose their meV otherwise
        self.e0_values, self.scale_value = [float(e) for e in e0], float(scale)
        self.zbl = ZBL() if zbl else None
        self.allow_discontinuous = allow_discontinuous

    @property
    def config(self) -> dict[str, object]:
        """Everything `from_config` needs to build an untrained copy.

        Raises:
            ConfigError: the backbone is of a class outside `MODELS`, which no file could name.
        """
        return {
            "backbone": backbone_config(self.backbone),
            "elements": self.elements,
            "e0": self.e0_values,
            "scale": self.scale_value,
            "zbl": self.zbl is not None,
            "allow_discontinuous": self.allow_discontinuous,
        }

    @classmethod
    def from_config(cls, config: dict[str, object]) -> Self:
        """Builds an untrained potential from `config`.

        Raises:
            ConfigError: unknown backbone or arguments.
        """
        rest = dict(config)
        backbone = build_backbone(rest.pop("backbone"))  # type: ignore[arg-type]
        return cls(backbone, **rest)  # type: ignore[arg-type]

    def node_energy(self, graph: Graph) -> Float[Tensor, " N"]:
        """Energy of each atom, eV, in the precision of `graph.pos`; differentiable.

        Raises:
            ConfigError: a graph of a shorter cutoff than the backbone's, or a backbone with another number of outputs.
            ModelDomainError: an element outside `elements`.
        """
        self.check_cutoff(graph)
        species = self.species(graph.numbers)
        e0 = torch.tensor(self.e0_values, dtype=graph.pos.dtype, device=graph.device)[species]
        learned = self.backbone(graph).scalars
        if learned.shape[1] != 1:
            raise ConfigError(
                "a potential needs one scalar per node", expected="out_scalars = 1", got=str(learned.shape[1])
            )
        energy: Tensor = e0 + self.scale_value * learned[:, 0].to(graph.pos.dtype)
        if self.zbl is not None:
            energy = energy + self.zbl(graph)
        return energy

    def forward(
        self, graph: Graph, *, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> Prediction:
        """Energy, and on request forces and stress.

        Args:
            graph: structures with all pairs within `cutoff`.
            forces: also return −∂E/∂pos.
            stress: also return the stress; every structure needs three lattice vectors.
            create_graph: keep all results differentiable, for training on them. They are too where `graph.pos` requires
                a gradient, and detached otherwise.

        Raises:
            GeomolError: stress asked of a structure without a cell, or derivatives inside `torch.inference_mode`.
        """
        follow = graph.pos.requires_grad and torch.is_grad_enabled()
        create_graph = create_graph or follow
        if not (forces or stress):
            with torch.set_grad_enabled(create_graph):
                node_energy = self.node_energy(graph)
                return Prediction(segment_sum(node_energy, graph.ptr), node_energy)
        if torch.is_inference_mode_enabled():
            raise GeomolError(
                "forces and stress are derivatives, which PyTorch does not form in inference mode",
                remedy="leave torch.inference_mode out; nothing is kept for training unless create_graph=True",
            )
        with torch.enable_grad(), constant_weights(not create_graph):
            pos = graph.pos if follow else graph.pos.detach().requires_grad_()
            strained, strain = (graph.replace(pos=pos), None) if not stress else strain_graph(graph, pos)
            node_energy = self.node_energy(strained)
            energy = segment_sum(node_energy, graph.ptr)
            wanted = [pos] if strain is None else [pos, strain]
            grads = torch.autograd.grad(
                energy.sum(), wanted, create_graph=create_graph, allow_unused=True, materialize_grads=True
            )
        stress_value = None if strain is None else grads[1] / torch.linalg.det(graph.cell).abs()[:, None, None]
        if not create_graph:
            energy, node_energy = energy.detach(), node_energy.detach()
        return Prediction(energy, node_energy, -grads[0] if forces else None, stress_value)


def check_smooth(symmetry: Symmetry) -> None:
    """Refuses backbones whose energies jump, which forces cannot follow.

    Raises:
        ConfigError: they jump where two axes of a structure become equal or another point is the nearest or farthest,
            or where an atom crosses the cutoff.
    """
    if not symmetry.continuous:
        raise ConfigError(
            "energies from this backbone jump where the pose of a structure is not unique, or other points are chosen",
            remedy='choose frames = "robust" or softness > 0, or accept it with allow_discontinuous = true',
        )
    if not symmetry.smooth:
        raise ConfigError(
            "energies from this backbone jump where an atom crosses the cutoff, or its forces are not their gradient",
            remedy="choose envelope = true and differentiable frames, or accept it with allow_discontinuous = true",
        )


def strain_graph(graph: Graph, pos: Float[Tensor, "N 3"]) -> tuple[Graph, Float[Tensor, "G 3 3"]]:
    """The graph under a symmetric infinitesimal strain, and the strain (zero, requiring gradients).

    Raises:
        GeomolError: a structure without a cell has no volume, hence no stress.
    """
    if bool((torch.linalg.det(graph.cell) == 0).any()):
        raise GeomolError("stress of a structure without a cell", remedy="give it three lattice vectors")
    strain = torch.zeros_like(graph.cell, requires_grad=True)
    symmetric = (strain + strain.mT) / 2
    if graph.num_graphs == 1:
        moved = pos + pos @ symmetric[0]
    else:
        moved = pos + torch.bmm(pos[:, None, :], gather_segments(symmetric, graph.batch, graph.ptr))[:, 0]
    return graph.replace(pos=moved, cell=graph.cell + graph.cell @ symmetric), strain


def hessian_vector(potential: Potential, graph: Graph, vector: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Product of the Hessian ∂²E/∂pos² with a displacement, eV/Å; one more derivative, no matrix."""
    with torch.enable_grad():
        pos = graph.pos.detach().requires_grad_()
        energy = potential.node_energy(graph.replace(pos=pos)).sum()
        (gradient,) = torch.autograd.grad(energy, pos, create_graph=True, allow_unused=True, materialize_grads=True)
        (product,) = torch.autograd.grad((gradient * vector).sum(), pos, allow_unused=True, materialize_grads=True)
    return product.detach()
