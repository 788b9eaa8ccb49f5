"""Potentials as one compiled function, as files that need no Python model, and as replayed CUDA graphs."""

from geomol.compiled.form import Form
from geomol.compiled.package import export_package
from geomol.compiled.packaged import PackagedPotential, read_package_manifest
from geomol.compiled.padding import pad_batch, pad_graph
from geomol.compiled.replay import ReplayedPotential
from geomol.compiled.replay_training import ReplayedTraining
from geomol.compiled.step import CompiledPotential, compile_step, has_many_pairs
from geomol.compiled.tables import TabulatedPotential, tabulated
from geomol.compiled.trace import Traced, strip_detaches, trace_step
from geomol.compiled.verify import check_step

__all__ = [
    "CompiledPotential",
    "Form",
    "PackagedPotential",
    "ReplayedPotential",
    "ReplayedTraining",
    "TabulatedPotential",
    "Traced",
    "check_step",
    "compile_step",
    "export_package",
    "has_many_pairs",
    "pad_batch",
    "pad_graph",
    "read_package_manifest",
    "strip_detaches",
    "tabulated",
    "trace_step",
]
