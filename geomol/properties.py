"""Numbers and vectors that belong to a whole structure: the model of property regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.nn import SpeciesIndex
from geomol.ops import segment_mean, segment_sum
from geomol.symmetry import OnBackbone, backbone_config, build_backbone

POOLINGS = ("mean", "sum")


@dataclass(frozen=True)
class Target:
    """What is predicted, and in which numbers the network thinks of it.

    Attributes:
        name, unit: as in the table of properties.
        mean, spread: the network's output o stands for mean + spread · o.
        references: energy (or whatever the target is) of each element, added per atom; empty for none.
    """

    name: str
    unit: str
    mean: float = 0.0
    spread: float = 1.0
    references: Mapping[int, float] | None = None


class PropertyModel(OnBackbone):
    """y = mean + spread · pool_i o_i (+ Σ_i reference[Z_i]), o_i the scalars that a backbone gives per node.

    With `vector`, the one target is a vector: y = spread · pool_i v_i, v_i the first vector per node; it turns with the
    structure as far as the backbone's vectors do.

    Args:
        backbone: any backbone of `geomol.symmetry.BACKBONES`, with one scalar per target, or a vector.
        elements: atomic numbers it is made for.
        targets: what it predicts.
        pooling: "mean", for properties that do not grow with the structure, or "sum".
        vector: whether the target is a vector.

    Raises:
        ConfigError: unknown pooling, no targets, or several vectors.
        ModelDomainError: at call, an element outside `elements`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        elements: Sequence[int],
        targets: Sequence[Target],
        pooling: str = "mean",
        vector: bool = False,
    ) -> None:
        super().__init__(backbone)
        if pooling not in POOLINGS:
            raise ConfigError("unknown pooling", expected=" or ".join(POOLINGS), got=pooling)
        if not targets or (vector and len(targets) > 1):
            raise ConfigError("a property model needs targets, and one alone if it is a vector", got=str(len(targets)))
        self.species = SpeciesIndex(elements)
        self.elements = self.species.elements
        self.targets, self.pooling, self.vector = tuple(targets), pooling, vector

    @property
    def config(self) -> dict[str, object]:
        """Everything `from_config` needs to build an untrained copy."""
        targets = [
            {
                "name": t.name,
                "unit": t.unit,
                "mean": t.mean,
                "spread": t.spread,
                "references": None if t.references is None else {str(z): e for z, e in t.references.items()},
            }
            for t in self.targets
        ]
        return {
            "backbone": backbone_config(self.backbone),
            "elements": list(self.elements),
            "targets": targets,
            "pooling": self.pooling,
            "vector": self.vector,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Builds an untrained model from `config`.

        Raises:
            ConfigError: unknown backbone or arguments.
        """
        rest = dict(config)
        backbone = build_backbone(rest.pop("backbone"))  # type: ignore[arg-type]
        targets = [_target(t) for t in rest.pop("targets")]  # type: ignore[attr-defined]
        return cls(backbone, targets=targets, **rest)  # type: ignore[arg-type]

    def standardised(self, graph: Graph) -> Float[Tensor, "G T"]:
        """What the network says, in units of the spreads, without mean and references; (G, 3) for a vector.

        Raises:
            ConfigError: a graph of a shorter cutoff than the backbone's, or a backbone without the vectors.
        """
        self.check_cutoff(graph)
        out = self.backbone(graph)
        pool = segment_mean if self.pooling == "mean" else segment_sum
        if not self.vector:
            return pool(out.scalars[:, : len(self.targets)], graph.ptr)
        if out.vectors is None or out.vectors.shape[1] == 0:
            raise ConfigError("a vector target needs a vector per node", remedy="set out_vectors=1")
        return pool(out.vectors[:, 0], graph.ptr)

    def offsets(self, graph: Graph) -> Float[Tensor, "G T"]:
        """Means and references of each structure, in units of the targets, float64."""
        kind = self.species(graph.numbers)
        columns = []
        for target in self.targets:
            offset = torch.full((graph.num_graphs,), target.mean, dtype=torch.float64, device=graph.device)
            if target.references is not None:
                table = [target.references.get(z, 0.0) for z in self.elements]
                each = torch.tensor(table, dtype=torch.float64, device=graph.device)[kind]
                offset = offset + segment_sum(each, graph.ptr)
            columns.append(offset)
        return torch.stack(columns, dim=1)

    def spreads(self, device: torch.device | str = "cpu") -> Float[Tensor, " T"]:
        """Spread of each target, float64."""
        return torch.tensor([target.spread for target in self.targets], dtype=torch.float64, device=device)

    def forward(self, graph: Graph) -> Float[Tensor, "G T"]:
        """The targets of each structure, in their own units, float64; (G, 3) for a vector."""
        self.species(graph.numbers)  # refuses strange elements
        out = self.standardised(graph).double() * self.spreads(graph.device)
        return out if self.vector else out + self.offsets(graph)


def _target(settings: Mapping[str, object]) -> Target:
    references = settings.get("references")
    table = None if references is None else {int(z): float(e) for z, e in references.items()}  # type: ignore[attr-defined]
    return Target(
        str(settings["name"]),
        str(settings["unit"]),
        float(settings["mean"]),  # type: ignore[arg-type]
        float(settings["spread"]),  # type: ignore[arg-type]
        table,
    )
