"""How symmetric is a model? Lie derivatives, finite motions, orbits and jumps of any callable, held to its claim."""

from geomol.symmetry.audit.expectation import ExpectedError, expected_errors
from geomol.symmetry.audit.finite import DISTANCES, Family, FiniteError, families, finite_errors
from geomol.symmetry.audit.jumps import Scan, equal_axes_path, rotation_path, scan
from geomol.symmetry.audit.layers import LAYER_ACTIONS, READOUT, layer_shares
from geomol.symmetry.audit.lie import METHODS, LieDerivative, choose_method, derivative, lee, lie_derivatives
from geomol.symmetry.audit.model import Model, pulled_back, run
from geomol.symmetry.audit.net_force import Momentum, identity_errors, momentum
from geomol.symmetry.audit.orbits import (
    Orbits,
    circle_elements,
    orbit,
    principal_components,
    sphere_axes,
    sphere_elements,
)
from geomol.symmetry.audit.result import Audit, Pictures, Row, Share
from geomol.symmetry.audit.whole import Effort, Layers, audit

__all__ = [
    "DISTANCES",
    "LAYER_ACTIONS",
    "METHODS",
    "READOUT",
    "Audit",
    "Effort",
    "ExpectedError",
    "Family",
    "FiniteError",
    "Layers",
    "LieDerivative",
    "Model",
    "Momentum",
    "Orbits",
    "Pictures",
    "Row",
    "Scan",
    "Share",
    "audit",
    "choose_method",
    "circle_elements",
    "derivative",
    "equal_axes_path",
    "expected_errors",
    "families",
    "finite_errors",
    "identity_errors",
    "layer_shares",
    "lee",
    "lie_derivatives",
    "momentum",
    "orbit",
    "principal_components",
    "pulled_back",
    "rotation_path",
    "run",
    "scan",
    "sphere_axes",
    "sphere_elements",
]
