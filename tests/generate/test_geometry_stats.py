"""Bonds, angles and torsions against RDKit's measurements; distances of sets against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms
from scipy.stats import wasserstein_distance

from geomol.data import Structures
from geomol.errors import InputError
from geomol.generate.geometry_stats import compare_geometry, key_name
from geomol.generate.internal_coordinates import (
    Coordinates,
    InternalCoordinates,
    bond_list,
    internal_coordinates,
    mean_change,
)
from geomol.generate.smiles import orders_of

SMILES = ["CC(=O)NCC1CC1", "C#CCO", "c1ccccc1", "O", "C1CC2CC12"]


def embedded(smiles: str, seed: int = 1) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


def flat(parts: list[tuple[np.ndarray, np.ndarray]]) -> Structures:
    num = len(parts)
    return Structures(
        name="molecules",
        numbers=np.concatenate([np.zeros(0, int), *(np.asarray(n) for n, _ in parts)]),
        pos=np.concatenate([np.zeros((0, 3)), *(p for _, p in parts)]),
        ptr=np.concatenate([[0], np.cumsum([len(n) for n, _ in parts])]),
        cell=np.zeros((num, 3, 3)),
        pbc=np.zeros((num, 3), bool),
    )


def as_set(mols: list[Chem.Mol]) -> tuple[Structures, list[np.ndarray]]:
    parts = [(np.array([a.GetAtomicNum() for a in m.GetAtoms()]), m.GetConformer().GetPositions()) for m in mols]
    return flat(parts), [orders_of(m) for m in mols]


def one_kind(values: list[tuple[tuple[int, int, int], np.ndarray]]) -> InternalCoordinates:
    """Bond lengths alone, as given."""
    keys = np.concatenate([np.repeat([key], len(v), axis=0) for key, v in values])
    number = np.concatenate([v for _, v in values])
    empty = Coordinates(np.zeros((0, 3), int), np.zeros((0, 3), int), np.zeros(0))
    none = Coordinates(np.zeros((0, 4), int), np.zeros((0, 5), int), np.zeros(0))
    return InternalCoordinates(Coordinates(np.zeros((len(number), 2), int), keys, number), empty, none)


def test_every_length_angle_and_torsion_is_the_one_that_rdkit_measures():
    mols = [embedded(s) for s in SMILES]
    structures, orders = as_set(mols)
    found = internal_coordinates(structures, orders)
    expected: dict[str, dict[tuple[int, ...], float]] = {"length": {}, "angle": {}, "torsion": {}}
    for mol, start in zip(mols, structures.ptr[:-1].tolist(), strict=True):
        conformer = mol.GetConformer()
        for bond in mol.GetBonds():
            j, k = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            expected["length"][tuple(sorted((start + j, start + k)))] = rdMolTransforms.GetBondLength(conformer, j, k)
        for kind, pattern in (("angle", "*~*~*"), ("torsion", "*~*~*~*")):
            for match in mol.GetSubstructMatches(Chem.MolFromSmarts(pattern), uniquify=False):
                measure = getattr(rdMolTransforms, {"angle": "GetAngleDeg", "torsion": "GetDihedralDeg"}[kind])
                path = tuple(start + i for i in match)
                expected[kind][min(path, path[::-1])] = abs(measure(conformer, *match))
    for kind, wanted in expected.items():
        given: Coordinates = getattr(found, kind)
        rows = [tuple(r) for r in given.atoms.tolist()]
        got = dict(zip([min(r, r[::-1]) for r in rows], given.values.tolist(), strict=True))
        assert len(got) == len(rows), kind
        assert got.keys() == wanted.keys(), kind
        undefined = [path for path, value in got.items() if np.isnan(value)]
        assert bool(undefined) == (kind == "torsion"), kind  # the alkyne has atoms in line
        for path in got.keys() - set(undefined):
            assert got[path] == pytest.approx(wanted[path], abs=1e-6), (kind, path)


def test_keys_name_elements_and_order_in_one_direction_only():
    structures, orders = as_set([embedded("CC(=O)NCC1CC1"), embedded("C#CCO")])
    found = internal_coordinates(structures, orders)
    names = {kind: {key_name(kind, k) for k in getattr(found, kind).keys.tolist()} for kind in vars(found)}
    assert {"C=O", "C#C", "H-O", "H-N", "C-N"} <= names["length"]
    assert "O-H" not in names["length"]
    assert {"C-C-O", "H-N-C", "C-C-C"} <= names["angle"]
    assert "O-C-C" not in names["angle"]
    assert "H-C-C-O" in names["torsion"]
    assert "O-C-C-H" not in names["torsion"]
    assert key_name("torsion", (1, 6, 6, 1, 2)) == "H-C=C-H"


def test_values_stay_under_rotation_shift_and_reflection():
    structures, orders = as_set([embedded("CC(=O)NCC1CC1")])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    before = internal_coordinates(structures, orders)
    for matrix in (turn, -turn):
        moved = flat([(structures.numbers, structures.pos @ matrix + 3.0)])
        after = internal_coordinates(moved, orders)
        assert max(mean_change(before, after).values()) < 1e-9
    # control: a stretch by 1 % does not go unseen
    stretched = internal_coordinates(flat([(structures.numbers, 1.01 * structures.pos)]), orders)
    assert mean_change(before, stretched)["length_mean_change_A"] == pytest.approx(0.01 * before.length.values.mean())


def test_molecules_do_not_mix_and_those_without_bonds_contribute_nothing():
    mols = [embedded("CO"), embedded("C#CCO")]
    structures, orders = as_set(mols)
    alone = [internal_coordinates(*as_set([m])) for m in mols]
    parts = [(structures.numbers[:6], structures.pos[:6]), ([2], np.zeros((1, 3)))]
    parts += [([], np.zeros((0, 3))), (structures.numbers[6:], structures.pos[6:])]
    together = internal_coordinates(
        flat(parts), [orders[0], np.zeros((1, 1), np.int8), np.zeros((0, 0), np.int8), orders[1]]
    )
    for kind in vars(together):
        both = np.concatenate([getattr(a, kind).values for a in alone])
        assert np.array_equal(getattr(together, kind).values, both, equal_nan=True), kind
    empty = internal_coordinates(flat([]), [])
    assert len(empty.length.values) == len(empty.angle.values) == len(empty.torsion.values) == 0


def test_orders_of_the_wrong_size_are_refused():
    with pytest.raises(InputError, match="bond orders are needed for each molecule, expected 1, got 0"):
        bond_list([], np.array([0, 3]))
    with pytest.raises(InputError, match=r"molecule 1: bond orders of the wrong shape, expected \(2, 2\)"):
        bond_list([np.zeros((3, 3), int), np.zeros((3, 3), int)], np.array([0, 3, 5]))


def test_the_distance_is_the_shift_and_the_mean_over_keys_is_weighted_by_the_reference():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.5, 0.02, 600), rng.normal(1.2, 0.01, 200)
    reference = one_kind([((6, 6, 1), a), ((6, 8, 2), b)])
    generated = one_kind([((6, 6, 1), a + 0.03), ((6, 8, 2), b - 0.01)])
    row = compare_geometry(generated, reference).kinds[0]
    by_name = {r.name: r for r in row.rows}
    assert by_name["C-C"].w1 == pytest.approx(0.03)
    assert by_name["C=O"].mean_shift == pytest.approx(-0.01)
    assert row.w1 == pytest.approx(0.75 * 0.03 + 0.25 * 0.01)
    assert row.shift == pytest.approx(row.w1)
    assert row.key_tv == pytest.approx(0.0)
    assert row.covered == pytest.approx(1.0)
    # a wider distribution of the same mean: W1 of two normal distributions is |σ₁ − σ₂| √(2/π), and the shift is 0
    wide = one_kind([((6, 6, 1), rng.normal(1.5, 0.05, 200_000))])
    narrow = one_kind([((6, 6, 1), rng.normal(1.5, 0.02, 200_000))])
    row = compare_geometry(wide, narrow).kinds[0]
    assert row.w1 == pytest.approx(0.03 * np.sqrt(2 / np.pi), rel=0.02)
    assert row.shift < 5e-4


def test_what_the_distance_cannot_see_is_told():
    rng = np.random.default_rng(1)
    a = rng.normal(1.5, 0.02, 300)
    reference = one_kind([((6, 6, 1), a), ((6, 7, 1), a[:100])])
    generated = one_kind([((6, 6, 1), a), ((7, 7, 1), a[:100]), ((6, 7, 1), a[:3])])
    row = compare_geometry(generated, reference).kinds[0]
    assert row.w1 == pytest.approx(0.0)
    assert row.covered == pytest.approx(0.75)  # C-N is too rare among the generated
    shares = np.array([[300, 3, 100], [300, 100, 0]])
    p, q = shares / shares.sum(axis=1, keepdims=True)
    assert row.key_tv == pytest.approx(0.5 * np.abs(p - q).sum())
    assert np.isnan({r.name: r.w1 for r in row.rows}["N-N"])
    with_few = compare_geometry(generated, reference, min_count=1).kinds[0]
    expected = 0.25 * wasserstein_distance(a[:3], a[:100])
    assert with_few.w1 == pytest.approx(expected)
    nothing = compare_geometry(one_kind([((7, 7, 1), a)]), reference).figures()
    assert np.isnan(nothing["length_w1_A"])
    assert nothing["length_reference_covered"] == 0.0
    assert np.isnan(nothing["torsion_w1_deg"])


def test_mirror_images_have_the_same_torsions_and_half_turns_do_not_wrap():
    pos = np.array([[0, 1.0, 0], [0, 0, 0], [1.0, 0, 0], [1.0, np.cos(3.1), np.sin(3.1)]])
    chain = np.diag([1, 1, 1], 1) + np.diag([1, 1, 1], -1)
    for sign in (1, -1):
        found = internal_coordinates(flat([([1, 6, 6, 1], pos * [1, 1, sign])]), [chain.astype(np.int8)])
        assert found.torsion.values == pytest.approx([np.degrees(3.1)])


def test_figures_name_units():
    figures = compare_geometry(*[internal_coordinates(*as_set([embedded("CCO")]))] * 2, min_count=1).figures()
    assert {"length_w1_A", "angle_w1_deg", "torsion_w1_deg", "length_key_tv"} <= figures.keys()
    assert figures["length_w1_A"] == figures["angle_w1_deg"] == figures["torsion_w1_deg"] == 0.0
    assert all(isinstance(value, float) for value in figures.values())
