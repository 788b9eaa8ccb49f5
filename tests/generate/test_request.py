"""Formulas, sizes and seeds: what the words of a user mean."""

from __future__ import annotations

import numpy as np
import pytest
from ase.symbols import Symbols
from hypothesis import given, settings
from hypothesis import strategies as st

from geomol.errors import ConfigError, InputError
from geomol.generate.request import Lead, Scaffold, contexts, make_requests, molecule_seed, parse_formula, parse_sizes

PRIOR = {9: 2, 17: 5, 18: 10, 19: 4, 29: 1}


@pytest.mark.parametrize("text", ["C7H10O2", "CH3CH2OH", "H2O", "C", "HCl", "NaCl", "C2H6OC"])
def test_formulas_are_those_of_ase_with_hydrogen_last(text: str) -> None:
    numbers = parse_formula(text)
    assert sorted(numbers) == sorted(Symbols.fromsymbols(text).numbers)
    assert (np.diff((numbers == 1).astype(int)) >= 0).all()
    assert numbers.dtype == np.int64


@pytest.mark.parametrize("text", ["", "c6h6", "C7H10O2 ", "C-1", "Xx2", "7", "H0", "C7H10O2)", "Ⅳ", "C99999999999"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="formula") as caught:
        parse_formula(text)
    assert "\n" not in str(caught.value)


def test_sizes_are_as_in_training_unless_said_otherwise() -> None:
    assert parse_sizes("prior", PRIOR) == PRIOR
    assert parse_sizes("18", PRIOR) == {18: 1}
    assert parse_sizes("25", {}) == {25: 1}
    assert parse_sizes("17-19", PRIOR) == {17: 5, 18: 10, 19: 4}
    assert parse_sizes("20-22", PRIOR) == {20: 1, 21: 1, 22: 1}


@pytest.mark.parametrize("text", ["", "many", "0", "19-17", "-3", "3.5", "0-4", "15-"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"number of atoms|range of sizes"):
        parse_sizes(text, PRIOR)


def test_a_model_that_does_not_know_sizes_says_so() -> None:
    with pytest.raises(ConfigError, match="give --n-atoms"):
        parse_sizes("prior", {})


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**40))
def test_a_longer_list_begins_with_a_shorter_one(a: int, b: int, seed: int) -> None:
    short, long = (make_requests(n, seed=seed, sizes=PRIOR) for n in sorted((a, b)))
    assert [(r.size, r.seed) for r in long[: len(short)]] == [(r.size, r.seed) for r in short]


def test_seeds_differ_between_molecules_and_runs() -> None:
    seeds = [molecule_seed(run, number) for run in range(30) for number in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_sizes_follow_their_weights() -> None:
    sizes = [r.size for r in make_requests(4000, seed=0, sizes=PRIOR)]
    total = sum(PRIOR.values())
    for size, weight in PRIOR.items():
        share = weight / total
        assert abs(sizes.count(size) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    assert set(sizes) == set(PRIOR)


def test_formula_and_lead_fix_the_size() -> None:
    numbers = parse_formula("CH4")
    assert {r.size for r in make_requests(5, seed=0, sizes={}, numbers=numbers)} == {5}
    lead = Lead(numbers, np.zeros((5, 3)), 0.5)
    assert {r.size for r in make_requests(5, seed=0, sizes={}, lead=lead)} == {5}


def test_a_scaffold_leaves_room_for_more() -> None:
    def scaffold(count: int) -> Scaffold:
        return Scaffold(np.full(count, 6), np.zeros((count, 3)), "frag.sdf")

    sizes = {r.size for r in make_requests(200, seed=0, sizes=PRIOR, scaffold=scaffold(17))}
    assert sizes == {18, 19, 29}
    with pytest.raises(InputError, match=r"frag.sdf: the scaffold leaves no atoms.*fewer than 29 atoms, got 29"):
        make_requests(1, seed=0, sizes=PRIOR, scaffold=scaffold(29))


@pytest.mark.parametrize(("num", "sizes", "message"), [(0, PRIOR, "must be positive"), (3, {}, "no sizes")])
def test_lists_of_nothing_are_refused(num: int, sizes: dict[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_requests(num, seed=0, sizes=sizes)


def test_wanted_values_stand_in_the_order_of_the_model() -> None:
    requests = make_requests(2, seed=0, sizes=PRIOR, context={"b": 2.0})
    assert np.array_equal(contexts(requests, ["a", "b"]), [[np.nan, 2.0]] * 2, equal_nan=True)
