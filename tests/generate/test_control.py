"""Files that say what is asked for: which atoms of which record."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from geomol.errors import ConfigError, DataError, InputError
from geomol.generate.bonds import edm_bonds
from geomol.generate.control import read_lead, read_scaffold
from geomol.generate.molecules import structures_of
from geomol.generate.sdf import write_sdf

FRAMES = [molecule(name) for name in ("CH3OH", "H2O", "C6H6")]


@pytest.fixture(params=[".sdf", ".xyz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    target = tmp_path / f"mols{request.param}"
    if request.param == ".sdf":
        structures = structures_of([f.numbers for f in FRAMES], [f.positions for f in FRAMES], name="mols")
        write_sdf(target, structures, edm_bonds(structures), [{} for _ in FRAMES])
    else:
        ase.io.write(target, FRAMES)
    return target


@pytest.mark.parametrize(("index", "expected"), [(0, 0), (2, 2), (-1, 2)])
def test_a_record_is_read_by_its_number(path: Path, index: int, expected: int) -> None:
    scaffold, lead = read_scaffold(path, index=index), read_lead(path, index=index, level=0.7)
    atoms = FRAMES[expected]
    for part in (scaffold, lead):
        assert np.array_equal(part.numbers, atoms.numbers)
        assert np.allclose(part.pos, atoms.positions, atol=1e-4)
    assert scaffold.name == path.name
    assert lead.level == 0.7


def test_atoms_are_taken_off_a_scaffold(path: Path) -> None:
    scaffold = read_scaffold(path, index=2, remove=(6, 0, 6))
    kept = [i for i in range(12) if i not in (0, 6)]
    assert np.array_equal(scaffold.numbers, FRAMES[2].numbers[kept])
    assert np.allclose(scaffold.pos, FRAMES[2].positions[kept], atol=1e-4)


def test_what_is_not_there_is_said(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such record, expected 0 to 2, got 3"):
        read_lead(path, index=3, level=0.5)
    with pytest.raises(ConfigError, match="no such record"):
        read_scaffold(path, index=-4)
    with pytest.raises(ConfigError, match="no such atom in the scaffold, expected 0 to 2, got 3"):
        read_scaffold(path, index=1, remove=(3,))
    with pytest.raises(ConfigError, match="no such atom"):
        read_scaffold(path, index=1, remove=(-1,))
    with pytest.raises(InputError, match="no atoms"):
        read_scaffold(path, index=1, remove=(0, 1, 2))
    with pytest.raises(DataError, match="no such file"):
        read_lead(tmp_path / f"absent{path.suffix}", level=0.5)


@pytest.mark.parametrize("level", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_must_be_positive(path: Path, level: float) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        read_lead(path, level=level)


def test_broken_records_are_named(path: Path) -> None:
    if path.suffix != ".sdf":
        return
    path.write_text(path.read_text() + "broken\n$$$$\n")
    with pytest.raises(InputError, match="record 3"):
        read_lead(path, index=3, level=0.5)
