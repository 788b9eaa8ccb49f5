"""Molecules out of noise: requests, sampling, bonds, files, and the metrics that say how good they are."""

from __future__ import annotations

from geomol.generate.bonds import edm_bonds
from geomol.generate.composition import compare_composition, composition
from geomol.generate.control import read_lead, read_scaffold
from geomol.generate.driver import SampleProgress, forget, run_key, sample
from geomol.generate.geometry_stats import compare_geometry
from geomol.generate.internal_coordinates import internal_coordinates
from geomol.generate.molecules import Molecules, structures_of
from geomol.generate.perception import Perceived, PerceptionError, perceive
from geomol.generate.physics import PHYSICS, physics_figures
from geomol.generate.protocols import PROTOCOLS, Protocol, Verdicts
from geomol.generate.read import read_molecules
from geomol.generate.relaxation import Limits, Relaxation
from geomol.generate.relaxers import relax_mmff, relax_molecules, relax_potential, relax_xtb
from geomol.generate.request import Lead, Request, Scaffold, make_requests, parse_formula, parse_sizes
from geomol.generate.results import relaxed_structures, tags_of, to_molecules, write_molecules
from geomol.generate.sampling import Sample, SampleSettings, sample_batch
from geomol.generate.score import Score, Share, score
from geomol.generate.sdf import read_sdf, write_sdf
from geomol.generate.smiles import orders_of, rdkit_version, sanitise, to_rdkit, without_hydrogens
from geomol.generate.strain import StrainSummary, summarise

__all__ = [
    "PHYSICS",
    "PROTOCOLS",
    "Lead",
    "Limits",
    "Molecules",
    "Perceived",
    "PerceptionError",
    "Protocol",
    "Relaxation",
    "Request",
    "Sample",
    "SampleProgress",
    "SampleSettings",
    "Scaffold",
    "Score",
    "Share",
    "StrainSummary",
    "Verdicts",
    "compare_composition",
    "compare_geometry",
    "composition",
    "edm_bonds",
    "forget",
    "internal_coordinates",
    "make_requests",
    "orders_of",
    "parse_formula",
    "parse_sizes",
    "perceive",
    "physics_figures",
    "rdkit_version",
    "read_lead",
    "read_molecules",
    "read_scaffold",
    "read_sdf",
    "relax_mmff",
    "relax_molecules",
    "relax_potential",
    "relax_xtb",
    "relaxed_structures",
    "run_key",
    "sample",
    "sample_batch",
    "sanitise",
    "score",
    "structures_of",
    "summarise",
    "tags_of",
    "to_molecules",
    "to_rdkit",
    "without_hydrogens",
    "write_molecules",
    "write_sdf",
]
