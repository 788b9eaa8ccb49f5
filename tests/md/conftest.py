"""Shared structures and the analytic potential of the simulation tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk


def _pair_module() -> ModuleType:
    # under a name of its own, so that worker processes and pickles find the class
    name = "geomol_test_pair_potential"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("pair_potential.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def pair_potential() -> Callable[..., Any]:
    """The class `PairPotential`: Morse copper by default."""
    made: Callable[..., Any] = _pair_module().PairPotential
    return made


@pytest.fixture
def cluster() -> Atoms:
    """Six copper atoms near an octahedron, without symmetry."""
    r = 1.95
    pos = np.array([[r, 0, 0], [-r, 0, 0], [0, r, 0], [0, -r, 0], [0, 0, r], [0, 0, -r]])
    return Atoms("Cu6", positions=pos + 0.05 * np.random.default_rng(1).standard_normal(pos.shape))


@pytest.fixture
def crystal() -> Atoms:
    """32 copper atoms in a slightly sheared cubic cell, rattled."""
    atoms = bulk("Cu", "fcc", a=3.9, cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0, 0.03, 0], [0, 0, 0.02], [0, 0, 0]])), scale_atoms=True)
    atoms.rattle(0.05, seed=3)
    return atoms
