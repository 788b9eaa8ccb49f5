"""Parts that at least two models share."""

from geomol.nn.calibration import unit_variance
from geomol.nn.envelope import polynomial_envelope
from geomol.nn.inputs import NodeInputs, SpeciesIndex
from geomol.nn.layer_norm import LayerNorm
from geomol.nn.place import device_of
from geomol.nn.radial import BesselBasis, legendre, safe_norm
from geomol.nn.zbl import ZBL

__all__ = [
    "ZBL",
    "BesselBasis",
    "LayerNorm",
    "NodeInputs",
    "SpeciesIndex",
    "device_of",
    "legendre",
    "polynomial_envelope",
    "safe_norm",
    "unit_variance",
]
