"""Using a potential: ASE calculator, simulation driver with guards, relaxation, observables."""

from geomol.md.batched import BatchProgress, BatchResult, run_batched_md
from geomol.md.batched_relax import relax_batched
from geomol.md.calculator import GeomolCalculator
from geomol.md.config import MDConfig
from geomol.md.driver import MDResult, Progress, run_md
from geomol.md.observables import (
    Distribution,
    Estimate,
    bond_lengths,
    energy_drift,
    mean_square_displacement,
    mean_with_interval,
    rdf,
    temperature,
)
from geomol.md.relax import RelaxResult, relax
from geomol.md.summary import read_table

__all__ = [
    "BatchProgress",
    "BatchResult",
    "Distribution",
    "Estimate",
    "GeomolCalculator",
    "MDConfig",
    "MDResult",
    "Progress",
    "RelaxResult",
    "bond_lengths",
    "energy_drift",
    "mean_square_displacement",
    "mean_with_interval",
    "rdf",
    "read_table",
    "relax",
    "relax_batched",
    "run_batched_md",
    "run_md",
    "temperature",
]
