"""Architectures, each whole in its file. `MODELS` is the only registry: the names that configurations and checkpoints
use.
"""

from torch import nn

from geomol.models.base import Backbone, Calibrated, Features, Symmetry
from geomol.models.egnn import EGNN
from geomol.models.pair import LennardJones, Morse
from geomol.models.ponita import Ponita

MODELS: dict[str, type[nn.Module]] = {
    "egnn": EGNN,
    "lennard_jones": LennardJones,
    "morse": Morse,
    "ponita": Ponita,
}

__all__ = ["EGNN", "MODELS", "Backbone", "Calibrated", "Features", "LennardJones", "Morse", "Ponita", "Symmetry"]
