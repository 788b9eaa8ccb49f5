"""Bond orders from distances: the published table at its edges, and sets against one molecule at a time."""

from __future__ import annotations

import numpy as np
import pytest

from geomol.generate.bonds import edm_bonds, joined, orders_at
from geomol.generate.molecules import structures_of

ELEMENTS = np.array([1, 6, 7, 8, 9])


def order(first: int, second: int, distance: float) -> int:
    """One pair, put into space along a diagonal."""
    pos = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]]) + 0.1
    matrix = edm_bonds(structures_of([np.array([first, second])], [pos], name="pair"))[0]
    assert matrix[0, 1] == matrix[1, 0]
    assert matrix[0, 0] == matrix[1, 1] == 0
    return int(matrix[0, 1])


def test_orders_are_those_of_the_published_code(golden):
    """380 pairs, with every threshold probed from both sides."""
    with np.load(golden / "edm_stability" / "bond_orders_qm9.npz") as case:
        first, second = ELEMENTS[case["inputs/type_a"]], ELEMENTS[case["inputs/type_b"]]
        assert np.array_equal(orders_at(first, second, case["inputs/distance"]), case["outputs/order"])


@pytest.mark.parametrize(
    ("pair", "distance", "expected"),
    [
        ((6, 6), 1.639, 1),
        ((6, 6), 1.641, 0),
        ((6, 6), 1.391, 1),
        ((6, 6), 1.389, 2),
        ((6, 6), 1.229, 3),
        ((6, 8), 1.249, 2),
        ((6, 8), 1.159, 3),
        ((8, 6), 1.159, 3),
        ((1, 1), 0.839, 1),
        ((1, 1), 0.841, 0),
        ((7, 8), 1.0, 2),
        ((6, 9), 1.449, 1),
        ((6, 17), 1.5, 0),
        ((17, 17), 0.1, 0),
    ],
)
def test_an_order_starts_where_the_table_says(pair, distance, expected):
    assert order(*pair, distance) == expected


def test_the_limits_themselves_do_not_belong_to_the_bond():
    """100 · 0.84 is 84 exactly, and 100 · 1.64 is 164: no rounding hides which comparison is used."""
    assert orders_at(np.array([1, 6]), np.array([1, 6]), np.array([0.84, 1.64])).tolist() == [0, 0]
    assert orders_at(np.array([1, 6]), np.array([1, 6]), np.array([0.8399999, 1.6399999])).tolist() == [1, 1]


def test_a_set_of_mixed_sizes_has_the_bonds_of_its_molecules():
    """The witness goes through pairs one by one."""
    generator = np.random.default_rng(0)
    sizes = [5, 1, 0, 9, 5, 2, 9, 0]
    numbers = [generator.choice([1, 6, 7, 8, 9, 16], size=n) for n in sizes]
    pos = [generator.uniform(0, 2.2, size=(n, 3)) for n in sizes]
    found = edm_bonds(structures_of(numbers, pos, name="mixed"))
    bonds = 0
    for z, x, matrix in zip(numbers, pos, found, strict=True):
        assert matrix.dtype == np.int8
        assert matrix.shape == (len(z), len(z))
        for i in range(len(z)):
            for j in range(i):
                distance = np.linalg.norm(x[i] - x[j])
                expected = int(orders_at(z[i : i + 1], z[j : j + 1], np.array([distance]))[0])
                assert matrix[i, j] == matrix[j, i] == expected
                bonds += expected > 0
    assert bonds > 10, "the comparison was not trivial"


def test_what_is_no_position_or_no_element_has_no_bonds():
    pos = np.array([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0], [0.0, 0.0, 1.0]])
    matrix = edm_bonds(structures_of([np.array([6, 1, 1])], [pos], name="bad"))[0]
    assert matrix.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert not edm_bonds(structures_of([np.array([0, 500])], [pos[[0, 2]]], name="bad"))[0].any()


def test_joined_bonds_carry_the_numbers_of_the_whole_set():
    matrices = [
        np.array([[0, 2], [2, 0]], dtype=np.int8),
        np.zeros((1, 1), np.int8),
        np.array([[0, 1], [1, 0]], np.int8),
    ]
    numbers = [np.array([6, 6]), np.array([1]), np.array([1, 1])]
    first, second, kind = joined(structures_of(numbers, [np.zeros((len(n), 3)) for n in numbers], name="x"), matrices)
    assert list(zip(first.tolist(), second.tolist(), kind.tolist(), strict=True)) == [
        (0, 1, 2),
        (1, 0, 2),
        (3, 4, 1),
        (4, 3, 1),
    ]
