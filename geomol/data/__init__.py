"""Data: the flat store of structures, readers with strict checks, units, splits, and verified downloads."""

from __future__ import annotations

from geomol.data.bond_table import BOND_LENGTHS_PM, MARGINS_PM, bond_thresholds
from geomol.data.catalogue import DatasetEntry, convert, describe, find_dataset, list_datasets, load_structures
from geomol.data.checks import check_structures
from geomol.data.cloud_categories import CLOUD_POOL, load_category, voxel_width
from geomol.data.cloud_files import read_clouds, write_clouds
from geomol.data.cloud_scans import SCANS, is_scan, read_scans
from geomol.data.cloud_sets import CLOUD_SETS, load_clouds
from geomol.data.cloud_text import parse_cloud
from geomol.data.cloud_transforms import (
    PROTOCOLS,
    Protocol,
    choose_points,
    draw_rotations,
    drop_points,
    find_protocol,
    jitter,
    normalise_cube,
    normalise_sphere,
    random_rotate,
    random_scale,
    rotate,
    uniform_jitter,
)
from geomol.data.clouds import CloudBatch, Clouds
from geomol.data.extxyz import read_extxyz
from geomol.data.frames import load_frames
from geomol.data.label_keys import LabelKeys
from geomol.data.made_parts import make_parts
from geomol.data.modelnet import VOXEL_JITTER, read_compact_modelnet10, read_modelnet_meshes
from geomol.data.nbody import NBody, load_nbody
from geomol.data.npz import read_npz
from geomol.data.off import parse_off, read_off
from geomol.data.qm9 import PropertyTable, load_qm9
from geomol.data.shapenet_part import read_shapenet_part
from geomol.data.smiles import structures_from_smiles, structures_of_lines
from geomol.data.sources import SOURCES, Source, get
from geomol.data.splits import blocked_split, check_split, check_splits, official_split, random_split
from geomol.data.structures import Structures
from geomol.data.unit_check import unlikely_units
from geomol.data.units import Units, parse_units
from geomol.data.write import write_extxyz

__all__ = [
    "BOND_LENGTHS_PM",
    "CLOUD_POOL",
    "CLOUD_SETS",
    "MARGINS_PM",
    "PROTOCOLS",
    "SCANS",
    "SOURCES",
    "VOXEL_JITTER",
    "CloudBatch",
    "Clouds",
    "DatasetEntry",
    "LabelKeys",
    "NBody",
    "PropertyTable",
    "Protocol",
    "Source",
    "Structures",
    "Units",
    "blocked_split",
    "bond_thresholds",
    "check_split",
    "check_splits",
    "check_structures",
    "choose_points",
    "convert",
    "describe",
    "draw_rotations",
    "drop_points",
    "find_dataset",
    "find_protocol",
    "get",
    "is_scan",
    "jitter",
    "list_datasets",
    "load_category",
    "load_clouds",
    "load_frames",
    "load_nbody",
    "load_qm9",
    "load_structures",
    "make_parts",
    "normalise_cube",
    "normalise_sphere",
    "official_split",
    "parse_cloud",
    "parse_off",
    "parse_units",
    "random_rotate",
    "random_scale",
    "random_split",
    "read_clouds",
    "read_compact_modelnet10",
    "read_extxyz",
    "read_modelnet_meshes",
    "read_npz",
    "read_off",
    "read_scans",
    "read_shapenet_part",
    "rotate",
    "structures_from_smiles",
    "structures_of_lines",
    "uniform_jitter",
    "unlikely_units",
    "voxel_width",
    "write_clouds",
    "write_extxyz",
]
