"""Structures of SDF files: atoms as they stand there, charge and spin, and what is no structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from geomol.data import Structures, load_structures
from geomol.errors import DataError, GeomolWarning, InputError
from geomol.generate import write_sdf


def block(smiles: str, *, flat: bool = False) -> str:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if flat or not smiles:
        AllChem.Compute2DCoords(mol)
    else:
        AllChem.EmbedMolecule(mol, randomSeed=1)
    return str(Chem.MolToMolBlock(mol)) + "$$$$\n"


def written(path: Path, *blocks: str) -> Path:
    path.write_text("".join(blocks))
    return path


def test_what_geomol_writes_is_read(tmp_path):
    numbers, pos = np.array([8, 1, 1, 1, 1]), np.arange(15.0).reshape(5, 3)
    made = Structures(
        name="made", numbers=numbers, pos=pos, ptr=[0, 3, 5], cell=np.zeros((2, 3, 3)), pbc=np.zeros((2, 3))
    )
    read = load_structures(write_sdf(tmp_path / "made.sdf", made, [None, None]))
    assert read.numbers.tolist() == numbers.tolist()
    assert read.ptr.tolist() == [0, 3, 5]
    np.testing.assert_allclose(read.pos, pos, atol=1e-4)
    assert read.charge is None
    assert read.spin is None


def test_charges_and_radicals_are_kept(tmp_path):
    read = load_structures(written(tmp_path / "in.sdf", block("O"), block("CC(=O)[O-]"), block("[CH3]")))
    assert read.n_atoms.tolist() == [3, 7, 4]
    assert read.charge.tolist() == [0, -1, 0]
    assert read.spin.tolist() == [0, 0, 2]
    assert read.subset([1]).to_atoms(0).info == {"charge": -1.0}
    assert read.to_atoms(0).info == {}


@pytest.mark.parametrize(
    ("bad", "fault"),
    [(block("CO", flat=True), "a drawing"), ("broken\n$$$$\n", "cut off"), (block(""), "no atoms")],
)
def test_a_record_that_is_no_structure_is_named_or_left_out(tmp_path, bad, fault):
    path = written(tmp_path / "in.sdf", block("O"), bad, block("C"))
    with pytest.raises(InputError, match=f"record 1: {fault}"):
        load_structures(path)
    with pytest.warns(GeomolWarning, match=r"1 bad of 3 frames left out \(1\)"):
        assert load_structures(path, skip_bad=True).n_atoms.tolist() == [3, 5]
    with pytest.raises(InputError, match="no structures"):
        load_structures(written(tmp_path / "bad.sdf", bad), skip_bad=True)


def test_an_empty_or_missing_file_has_no_structures(tmp_path):
    with pytest.raises(InputError, match="no structures"):
        load_structures(written(tmp_path / "in.sdf"))
    with pytest.raises(DataError, match="no such file"):
        load_structures(tmp_path / "none.sdf")


def test_records_without_their_hydrogens_are_warned_of(tmp_path):
    mol = Chem.RemoveHs(Chem.MolFromMolBlock(block("CCO"), removeHs=False))
    heavy = str(Chem.MolToMolBlock(mol)) + "$$$$\n"
    path = written(tmp_path / "mixed.sdf", block("CCO"), heavy, block("O=C=O"))
    with pytest.warns(GeomolWarning, match=r"mixed\.sdf: 1 of 3 molecules have bonds to hydrogens that are not there"):
        assert load_structures(path).n_atoms.tolist() == [9, 3, 3]
