"""Molecules out of points: bonds, RDKit molecules, files, and the metrics that say how good they are."""

from __future__ import annotations

from geomol.generate.bonds import edm_bonds
from geomol.generate.molecules import Molecules, structures_of
from geomol.generate.perception import Perceived, PerceptionError, perceive
from geomol.generate.protocols import PROTOCOLS, Protocol, Verdicts
from geomol.generate.read import read_molecules
from geomol.generate.score import Score, Share, score
from geomol.generate.sdf import read_sdf, write_sdf
from geomol.generate.smiles import orders_of, rdkit_version, sanitise, to_rdkit

__all__ = [
    "PROTOCOLS",
    "Molecules",
    "Perceived",
    "PerceptionError",
    "Protocol",
    "Score",
    "Share",
    "Verdicts",
    "edm_bonds",
    "orders_of",
    "perceive",
    "rdkit_version",
    "read_molecules",
    "read_sdf",
    "sanitise",
    "score",
    "structures_of",
    "to_rdkit",
    "write_sdf",
]
