"""What every model on top of a backbone says of itself: energies, forecasts, properties, labels and denoisers alike."""

from __future__ import annotations

import torch
from torch import nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import Symmetry


class OnBackbone(nn.Module):
    """A backbone with a meaning for its outputs.

    Args:
        backbone: any entry of `BACKBONES`.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def cutoff(self) -> float:
        """Radius of the graphs that it reads, Å for molecules; inf: complete graphs."""
        return self.backbone.cutoff  # type: ignore[return-value]

    @property
    def symmetry(self) -> Symmetry:
        """What the backbone claims."""
        return self.backbone.symmetry  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next((p.dtype for p in self.backbone.parameters()), torch.float64)

    def check_cutoff(self, graph: Graph) -> None:
        """Refuses graphs that lack pairs which the backbone reads.

        Raises:
            ConfigError: the graph lists the pairs of a shorter cutoff.
        """
        if graph.cutoff < self.cutoff:
            raise ConfigError(
                "the graph lacks pairs that this model reads",
                expected=f"those within {self.cutoff:g}",
                got=f"those within {graph.cutoff:g}",
                remedy="build the graph with the cutoff of the model",
            )
