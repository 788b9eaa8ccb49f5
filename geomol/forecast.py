"""Where the particles of a system will be: the model of trajectory forecasting."""

from __future__ import annotations

from typing import Self

from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.symmetry import OnBackbone, backbone_config, build_backbone


class Forecaster(OnBackbone):
    """Positions one horizon later, x + Δ, with Δ the first vector that a backbone gives per node.

    The input is the present state: positions, velocities (`graph.node_vectors[:, 0]`) and charges
    (`graph.node_scalars`), as far as the backbone reads them. Where the backbone is equivariant, so is the forecast.

    Args:
        backbone: any backbone with a vector output.

    Raises:
        ConfigError: at call, a backbone without vectors.
    """

    elements: tuple[int, ...] = ()

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)

    @property
    def config(self) -> dict[str, object]:
        """Everything `from_config` needs to build an untrained copy."""
        return {"backbone": backbone_config(self.backbone)}

    @classmethod
    def from_config(cls, config: dict[str, object]) -> Self:
        """Builds an untrained forecaster from `config`.

        Raises:
            ConfigError: unknown backbone or arguments.
        """
        rest = dict(config)
        backbone = build_backbone(rest.pop("backbone"))  # type: ignore[arg-type]
        return cls(backbone, **rest)

    def forward(self, graph: Graph) -> Float[Tensor, "N 3"]:
        """Later positions, in the precision of `graph.pos`."""
        vectors = self.backbone(graph).vectors
        if vectors is None or vectors.shape[1] == 0:
            raise ConfigError("a forecast needs a vector per node", remedy="set out_vectors=1")
        later: Tensor = graph.pos + vectors[:, 0].to(graph.pos.dtype)
        return later
