"""Splits: repeatable, disjoint, and refused with counts where they cannot be (row 29 of the bad-input table)."""

from __future__ import annotations

import numpy as np
import pytest

from geomol.data import Structures, blocked_split, check_splits, official_split, random_split
from geomol.errors import ConfigError


def test_row_29_sizes_that_exceed_the_data():
    with pytest.raises(
        ConfigError, match=r"split sizes exceed the data, expected at most 10, got 12 \(8 train \+ 4 test\)"
    ):
        random_split(10, {"train": 8, "test": 4}, seed=0)
    with pytest.raises(ConfigError, match=r"at most 10, got 11 \(5 train \+ 4 test \+ 2 in gaps\)"):
        blocked_split(10, {"train": 5, "test": 4}, gap=2)


@pytest.mark.parametrize("size", [-1, True])
def test_row_29_sizes_that_are_no_counts(size):
    with pytest.raises(ConfigError, match="size of split train is not a count"):
        random_split(10, {"train": size}, seed=0)


def test_row_29_overlap_duplicates_and_rows_beyond_the_data():
    with pytest.raises(ConfigError, match=r"train and test overlap.*got 2 shared of 4 and 3 rows"):
        check_splits({"train": np.arange(4), "test": np.array([2, 3, 9])}, 10)
    with pytest.raises(ConfigError, match=r"train: row numbers are repeated.*got 2 repeats of 4"):
        check_splits({"train": np.array([1, 1, 1, 2])}, 10)
    with pytest.raises(ConfigError, match=r"test: 2 row numbers exceed the data, expected 0 to 9, got -1 to 10"):
        check_splits({"test": np.array([-1, 3, 10])}, 10)
    with pytest.raises(ConfigError, match="a split is a list of row numbers"):
        check_splits({"test": np.array([0.5])}, 10)


def test_the_control_passes():
    check_splits({"train": np.arange(4), "test": np.arange(4, 10), "empty": np.arange(0)}, 10)


def test_random_splits_are_disjoint_repeatable_and_depend_on_the_seed():
    first = random_split(100, {"train": 60, "valid": 10, "test": 30}, seed=1)
    check_splits(first, 100)
    assert {name: len(rows) for name, rows in first.items()} == {"train": 60, "valid": 10, "test": 30}
    again = random_split(100, {"train": 60, "valid": 10, "test": 30}, seed=1)
    other = random_split(100, {"train": 60, "valid": 10, "test": 30}, seed=2)
    np.testing.assert_array_equal(first["train"], again["train"])
    assert not np.array_equal(first["train"], other["train"])
    assert not np.array_equal(first["train"], np.sort(first["train"]))


def test_blocks_are_contiguous_and_separated_by_the_gap():
    split = blocked_split(100, {"train": 50, "valid": 10, "test": 20}, gap=5)
    assert [(rows[0], rows[-1]) for rows in split.values()] == [(0, 49), (55, 64), (70, 89)]
    with pytest.raises(ConfigError, match="gap between blocks is negative"):
        blocked_split(10, {"train": 1}, gap=-1)


def test_the_official_split_validates_on_every_twentieth_training_row():
    order = np.random.default_rng(0).permutation(3000)
    structures = Structures(
        name="frames",
        numbers=np.ones(3000, dtype=np.int64),
        pos=np.zeros((3000, 3)),
        ptr=np.arange(3001),
        cell=np.zeros((3000, 3, 3)),
        pbc=np.zeros((3000, 3), dtype=bool),
        splits={"train_1": order[:1000], "test_1": order[1000:2000]},
    )
    split = official_split(structures, 1)
    assert {name: len(rows) for name, rows in split.items()} == {"train": 950, "valid": 50, "test": 1000}
    np.testing.assert_array_equal(split["valid"], order[:1000:20])
    check_splits(split, 3000)
    with pytest.raises(ConfigError, match=r"no official split 2: train_2 and test_2 missing, got test_1, train_1"):
        official_split(structures, 2)
