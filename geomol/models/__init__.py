"""Architectures, each whole in its file. `MODELS` is the only registry: the names that configurations and checkpoints
use.
"""

from torch import nn

from geomol.models.base import Backbone, Calibrated, Compilable, Features, Penalised, Reseeded, Symmetry
from geomol.models.conditioned_egnn import ConditionedEGNN
from geomol.models.deep_sets import DeepSets
from geomol.models.edm_egnn import EDMEGNN
from geomol.models.egnn import EGNN
from geomol.models.fa_gnn import FAGNN
from geomol.models.faenet import FAENet
from geomol.models.mpnn import MPNN
from geomol.models.nbody_baselines import LinearMotion, RadialField
from geomol.models.painn import PaiNN
from geomol.models.pair import LennardJones, Morse
from geomol.models.pair_transformer import PairTransformer
from geomol.models.ponita import Ponita
from geomol.models.rapidash import Rapidash
from geomol.models.rapidash_head import PooledHead
from geomol.models.tables import tabulate
from geomol.models.transformer import Transformer

MODELS: dict[str, type[nn.Module]] = {
    "conditioned_egnn": ConditionedEGNN,
    "deep_sets": DeepSets,
    "edm_egnn": EDMEGNN,
    "egnn": EGNN,
    "fa_gnn": FAGNN,
    "faenet": FAENet,
    "lennard_jones": LennardJones,
    "linear_motion": LinearMotion,
    "morse": Morse,
    "mpnn": MPNN,
    "painn": PaiNN,
    "pair_transformer": PairTransformer,
    "ponita": Ponita,
    "radial_field": RadialField,
    "rapidash": Rapidash,
    "transformer": Transformer,
}

__all__ = [
    "EDMEGNN",
    "EGNN",
    "FAGNN",
    "MODELS",
    "MPNN",
    "Backbone",
    "Calibrated",
    "Compilable",
    "ConditionedEGNN",
    "DeepSets",
    "FAENet",
    "Features",
    "LennardJones",
    "LinearMotion",
    "Morse",
    "PaiNN",
    "PairTransformer",
    "Penalised",
    "Ponita",
    "PooledHead",
    "RadialField",
    "Rapidash",
    "Reseeded",
    "Symmetry",
    "Transformer",
    "tabulate",
]
