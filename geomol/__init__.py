"""geomol: molecular and point-cloud modelling in which every symmetry choice is a setting, and its effect is
measured."""

from importlib.metadata import version

from geomol.checkpoint import load_model as load
from geomol.graph import Graph
from geomol.md import GeomolCalculator

__version__ = version("geomol")
__all__ = ["GeomolCalculator", "Graph", "__version__", "load"]
