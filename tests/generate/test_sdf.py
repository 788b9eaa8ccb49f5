"""SDF files: what is written comes back, what is broken costs one record, and a file is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from geomol.errors import DataError, InputError, OutputError
from geomol.generate.bonds import edm_bonds
from geomol.generate.molecules import Molecules, structures_of
from geomol.generate.protocols import edm_protocol, graph_protocol
from geomol.generate.read import read_molecules
from geomol.generate.sdf import read_sdf, write_sdf
from geomol.generate.smiles import orders_of, sanitise, to_rdkit, whole_smiles

NAMES = ("CH3CH2OH", "HCN", "H2O", "CH3", "CO2", "H")


def small_set(offset: float = 0.0):
    frames = [molecule(name) for name in NAMES]
    pos = [frame.positions + offset + 1e-5 * np.arange(3) for frame in frames]
    return structures_of([frame.numbers for frame in frames], pos, name="small")


@pytest.mark.parametrize("v3000", [False, True])
@pytest.mark.parametrize("offset", [0.0, -321.98765])
def test_atoms_bonds_charges_and_tags_come_back(tmp_path, v3000, offset):
    structures = small_set(offset)
    orders = edm_bonds(structures)
    charges = [np.zeros(n, dtype=np.int64) for n in structures.n_atoms.tolist()]
    charges[3][0] = -1
    tags = [{"seed": 100 + i, "model": "sha256:ab12", "note": "two\nlines"} for i in range(len(structures))]
    path = write_sdf(tmp_path / "mols.sdf", structures, orders, tags, charges=charges, v3000=v3000)
    assert ("V3000" in path.read_text()) == v3000
    found = read_sdf(path)
    assert np.array_equal(found.structures.numbers, structures.numbers)
    assert np.array_equal(found.structures.ptr, structures.ptr)
    assert np.abs(found.structures.pos - structures.pos).max() < (1e-6 if v3000 else 1e-4)
    assert all(np.array_equal(a, b) for a, b in zip(found.orders, orders, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(found.charges, charges, strict=True))
    assert found.properties[2] == {"seed": "102", "model": "sha256:ab12", "note": "two\nlines"}
    assert found.faults == {}


def test_a_molecule_without_known_bonds_is_written_and_says_so(tmp_path):
    structures = small_set()
    orders = [None, *edm_bonds(structures)[1:]]
    found = read_sdf(write_sdf(tmp_path / "mols.sdf", structures, orders))
    assert found.orders[0] is None
    assert found.properties[0] == {"geomol_bonds": "not known"}
    assert np.abs(found.structures.pos - structures.pos).max() < 1e-4
    assert graph_protocol(found).stable.tolist() == [False, True, True, False, True, False]
    assert found.orders[5].shape == (1, 1), "an atom alone has no bonds, which is known"


def test_aromatic_bonds_are_written_as_the_format_wants_them(tmp_path):
    benzene = molecule("C6H6")
    ring = np.zeros((12, 12), dtype=np.int8)
    for i in range(6):
        ring[i, (i + 1) % 6] = ring[(i + 1) % 6, i] = 4
        ring[i, i + 6] = ring[i + 6, i] = 1
    structures = structures_of([benzene.numbers], [benzene.positions], name="benzene")
    found = read_sdf(write_sdf(tmp_path / "benzene.sdf", structures, [ring]))
    assert sorted(found.orders[0][:6, :6].sum(axis=1).tolist()) == [3] * 6
    before, after = to_rdkit(benzene.numbers, None, ring), to_rdkit(benzene.numbers, None, found.orders[0])
    assert sanitise(before) == sanitise(after) == ""
    assert whole_smiles(before) == whole_smiles(after)


def test_rdkit_reads_the_same_molecules_itself(tmp_path):
    """The witness: RDKit's own supplier."""
    from rdkit import Chem

    structures = small_set()
    path = write_sdf(tmp_path / "mols.sdf", structures, edm_bonds(structures), [{"seed": i} for i in range(6)])
    mols = list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))
    assert [mol.GetNumAtoms() for mol in mols] == structures.n_atoms.tolist()
    assert [mol.GetProp("seed") for mol in mols] == list("012345")
    assert all(np.array_equal(orders_of(m), matrix) for m, matrix in zip(mols, edm_bonds(structures), strict=True))


def broken_file(folder: Path) -> Path:
    """Six good records, of which the second, third and fourth are then broken, and a cut one at the end."""
    structures = small_set()
    path = write_sdf(folder / "broken.sdf", structures, edm_bonds(structures), [{"seed": i} for i in range(6)])
    records = path.read_text().split("$$$$\n")[:-1]
    records[1] = records[1].replace(" C ", " Qq", 1)
    records[2] = records[2].replace("V2000", "V9999")
    records[3] = records[3].replace("0.0000", "   nan", 1)
    path.write_text("$$$$\n".join(records) + "$$$$\n" + records[0][:200])
    return path


def test_a_broken_record_is_a_failure_and_costs_no_other(tmp_path):
    found = read_sdf(broken_file(tmp_path))
    assert len(found) == 7
    assert sorted(found.faults) == [1, 2, 3, 6]
    assert all(text.startswith("unreadable record: ") for text in found.faults.values())
    assert found.structures.n_atoms.tolist() == [9, 0, 0, 0, 3, 1, 0]
    assert found.properties[4] == {"seed": "4"}
    verdicts = edm_protocol(found)
    assert verdicts.stable.tolist() == [True, False, False, False, True, False, False]
    assert verdicts.reasons[1] == found.faults[1]


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_sdf(tmp_path / "missing.sdf")
    (tmp_path / "empty.sdf").write_text("\n")
    with pytest.raises(InputError, match="no molecules"):
        read_sdf(tmp_path / "empty.sdf")


@pytest.mark.parametrize("tags", [{"a>b": 1}, {"": 1}, {"a": "x\n\ny"}, {"a": "$$$$"}, {"a": "> <b>"}, {"a": ""}])
def test_tags_that_would_break_the_file_are_refused(tmp_path, tags):
    structures = small_set().subset(np.array([0]))
    with pytest.raises(InputError, match="that SDF cannot hold"):
        write_sdf(tmp_path / "mols.sdf", structures, edm_bonds(structures), [tags])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    structures = small_set()
    orders = edm_bonds(structures)
    path = write_sdf(tmp_path / "mols.sdf", structures, orders)
    before = path.read_bytes()
    bad = structures_of([np.array([6])], [np.array([[np.nan, 0, 0]])], name="bad")
    with pytest.raises(InputError, match="not finite"):
        write_sdf(path, bad, [np.zeros((1, 1), np.int8)])
    with pytest.raises(InputError, match="another length"):
        write_sdf(path, structures, orders[:-1])
    with pytest.raises(InputError, match="one set of tags"):
        write_sdf(path, structures, orders, [{}])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["mols.sdf"]
    with pytest.raises(OutputError, match="could not be written"):
        write_sdf(path / "below.sdf", structures, orders)


def test_more_atoms_than_the_old_format_counts_are_written_in_the_new_one(tmp_path):
    grid = np.stack(np.meshgrid(*[np.arange(10) * 3.0] * 3), axis=-1).reshape(-1, 3)
    structures = structures_of([np.full(1000, 6)], [grid], name="grid")
    path = write_sdf(tmp_path / "large.sdf", structures, edm_bonds(structures))
    assert "V3000" in path.read_text()
    assert np.allclose(read_sdf(path).structures.pos, grid)


def test_an_xyz_file_loses_no_broken_frame(tmp_path):
    good = "3\n\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n"
    path = tmp_path / "mols.xyz"
    path.write_text(good + good.replace("0.93", "nan") + good + "2\n\nQq 0 0 0\nH 0 0 1\n" + "0\n\n" + good[:20])
    found = read_molecules(path)
    assert found.structures.n_atoms.tolist() == [3, 0, 3, 0, 0, 0]
    assert sorted(found.faults) == [1, 3, 4, 5]
    assert edm_protocol(found).stable.tolist() == [True, False, True, False, False, False]
    path.write_text(good * 3)
    assert read_molecules(path).faults == {}


def test_an_npz_file_loses_no_broken_molecule(tmp_path):
    pos = np.array([[0, 0, 0], [0, 0, 0.74], [0, 0, 0], [0, 0, np.inf]])
    path = tmp_path / "mols.npz"
    np.savez(path, numbers=np.ones(4, dtype=np.int64), n_atoms=np.array([2, 2]), positions=pos)
    found = read_molecules(path)
    assert found.structures.n_atoms.tolist() == [2, 0]
    assert list(found.faults) == [1]


def test_a_subset_keeps_what_belongs_to_its_molecules(tmp_path):
    found = read_sdf(broken_file(tmp_path))
    part = found.subset(np.array([4, 1]))
    assert isinstance(part, Molecules)
    assert part.structures.n_atoms.tolist() == [3, 0]
    assert part.faults == {1: found.faults[1]}
    assert part.properties[0] == {"seed": "4"}
    assert np.array_equal(part.orders[0], found.orders[4])
