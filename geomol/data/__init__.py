"""Data: the flat store of structures, readers with strict checks, units, splits, and verified downloads."""

from __future__ import annotations

from geomol.data.bond_table import BOND_LENGTHS_PM, MARGINS_PM, bond_thresholds
from geomol.data.catalogue import DatasetEntry, convert, describe, find_dataset, list_datasets, load_structures
from geomol.data.checks import check_structures
from geomol.data.extxyz import read_extxyz
from geomol.data.label_keys import LabelKeys
from geomol.data.nbody import NBody, load_nbody
from geomol.data.npz import read_npz
from geomol.data.qm9 import PropertyTable, load_qm9
from geomol.data.smiles import structures_from_smiles
from geomol.data.sources import SOURCES, Source, get
from geomol.data.splits import blocked_split, check_split, check_splits, official_split, random_split
from geomol.data.structures import Structures
from geomol.data.unit_check import unlikely_units
from geomol.data.units import Units, parse_units
from geomol.data.write import write_extxyz

__all__ = [
    "BOND_LENGTHS_PM",
    "MARGINS_PM",
    "SOURCES",
    "DatasetEntry",
    "LabelKeys",
    "NBody",
    "PropertyTable",
    "Source",
    "Structures",
    "Units",
    "blocked_split",
    "bond_thresholds",
    "check_split",
    "check_splits",
    "check_structures",
    "convert",
    "describe",
    "find_dataset",
    "get",
    "list_datasets",
    "load_nbody",
    "load_qm9",
    "load_structures",
    "official_split",
    "parse_units",
    "random_split",
    "read_extxyz",
    "read_npz",
    "structures_from_smiles",
    "unlikely_units",
    "write_extxyz",
]
