"""Elements, sizes and rings of molecules whose counts everyone knows, and distances of sets by hand."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Crippen

from geomol.data import Structures
from geomol.errors import InputError
from geomol.generate.composition import (
    LARGEST_RING,
    compare_composition,
    compare_likeness,
    composition,
    likeness,
    total_variation,
)
from geomol.generate.smiles import orders_of


def as_set(smiles: list[str]) -> tuple[Structures, list[np.ndarray]]:
    mols = [Chem.AddHs(Chem.MolFromSmiles(s)) for s in smiles]
    numbers = [np.array([a.GetAtomicNum() for a in m.GetAtoms()]) for m in mols]
    num, atoms = len(mols), sum(map(len, numbers))
    structures = Structures(
        name="molecules",
        numbers=np.concatenate([np.zeros(0, int), *numbers]),
        pos=np.zeros((atoms, 3)),
        ptr=np.concatenate([[0], np.cumsum([len(n) for n in numbers])]),
        cell=np.zeros((num, 3, 3)),
        pbc=np.zeros((num, 3), bool),
    )
    return structures, [orders_of(m) for m in mols]


def test_elements_sizes_and_rings_are_counted():
    found = composition(*as_set(["C1CC1", "c1ccccc1O", "C1CC2CC12", "CO", "C1CCCCCCCCCCC1"]))
    assert found.rdkit == rdBase.rdkitVersion
    assert found.atoms.tolist() == [9, 13, 13, 6, 36]
    assert found.heavy_atoms.tolist() == [3, 7, 5, 2, 12]
    assert found.rings.tolist() == [1, 1, 2, 0, 1]
    assert {k: n for k, n in enumerate(found.ring_sizes.tolist()) if n} == {3: 2, 4: 1, 6: 1, LARGEST_RING: 1}
    assert found.elements[[1, 6, 8]].tolist() == [6 + 6 + 8 + 4 + 24, 3 + 6 + 5 + 1 + 12, 2]
    figures = found.figures()
    assert figures["element_O_share"] == pytest.approx(2 / 77)
    assert figures["ring_size_3_share"] == pytest.approx(2 / 5)
    assert figures["ring_size_10_or_more_share"] == pytest.approx(1 / 5)
    assert figures["with_ring_share"] == pytest.approx(4 / 5)
    assert figures["atoms_mean"] == pytest.approx(77 / 5)


def test_the_number_of_rings_is_bonds_minus_atoms_plus_fragments():
    smiles = ["C12C3C4C1C5C2C3C45", "C1CC2CC1CC2", "C1CC1.C1CC1", "c1ccc2ccccc2c1", "CCO"]
    structures, orders = as_set(smiles)
    found = composition(structures, orders)
    fragments = [s.count(".") + 1 for s in smiles]
    bonds = [np.count_nonzero(o) // 2 for o in orders]
    assert found.rings.tolist() == (np.array(bonds) - structures.n_atoms + fragments).tolist()


def test_molecules_that_rdkit_rejects_are_counted_too():
    structures, orders = as_set(["C1CC1"])
    orders[0][orders[0] > 0] = 3  # carbons with twelve bonds
    assert composition(structures, orders).rings.tolist() == [1]


def test_distances_are_those_done_by_hand():
    a, b = composition(*as_set(["O", "O", "C1CC1"])), composition(*as_set(["O", "C1CC1", "C1CCC1", "CC"]))
    found = compare_composition(a, b)
    # H, C, O: 4 + 6, 3, 2 of 15 and 2 + 6 + 8 + 6, 3 + 4 + 2, 1 of 32
    shares = np.array([[10, 3, 2], [22, 9, 1]]) / [[15], [32]]
    assert found.element_tv == pytest.approx(0.5 * np.abs(shares[0] - shares[1]).sum())
    assert found.atoms_tv == pytest.approx(0.5 * (5 / 12 + 1 / 12 + 1 / 4 + 1 / 4))  # sizes 3, 9, 12 and 8
    assert found.rings_tv == pytest.approx(2 / 3 - 1 / 2)
    assert found.ring_size_tv == pytest.approx(0.5)
    assert found.rings_w1 == pytest.approx(2 / 3 - 1 / 2)
    assert found.atoms_w1 == pytest.approx(
        np.abs(np.subtract.outer(*[np.cumsum(_hist(c.atoms)) for c in (a, b)]).diagonal()).sum()
    )
    same = compare_composition(a, a).figures()
    assert set(same.values()) == {0.0}
    assert total_variation(np.array([1, 0]), np.array([0, 7])) == 1.0


def _hist(values: np.ndarray) -> np.ndarray:
    return np.bincount(values, minlength=20) / len(values)


def test_empty_sets_and_sets_without_rings_give_no_number_rather_than_zero():
    nothing, chain = composition(*as_set([])), composition(*as_set(["CC"]))
    assert np.isnan(compare_composition(chain, chain).ring_size_tv)
    assert compare_composition(chain, chain).rings_tv == 0.0
    assert np.isnan(compare_composition(nothing, chain).atoms_w1)
    assert np.isnan(nothing.figures()["atoms_mean"])
    with pytest.raises(InputError, match="one matrix of orders per molecule, expected 1, got 0"):
        composition(as_set(["CC"])[0], [])


def test_descriptors_are_those_of_the_molecule_without_its_hydrogens():
    smiles = ["CC(=O)Nc1ccc(O)cc1", "CCO"]
    structures, orders = as_set(smiles)
    found = likeness(structures, orders)
    bare = [Chem.MolFromSmiles(s) for s in smiles]
    assert found.qed == pytest.approx([QED.qed(m) for m in bare])
    assert found.logp == pytest.approx([Crippen.MolLogP(m) for m in bare])
    orders[1][orders[1] > 0] = 3
    partly = likeness(structures, orders)
    assert partly.figures()["descriptors_accepted_share"] == 0.5
    assert len(partly.qed) == 1
    assert compare_likeness(partly, found)["qed_w1"] == pytest.approx(abs(found.qed[0] - found.qed[1]) / 2)
