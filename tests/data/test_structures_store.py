"""The flat store: what goes in comes out, and what cannot be right does not go in."""

from __future__ import annotations

import dataclasses

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from geomol.data import Structures, describe
from geomol.errors import ConfigError, InputError


def frames() -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    made = [molecule("H2O"), bulk("Cu", cubic=True), molecule("CH4"), molecule("H")]
    for atoms in made:
        atoms.calc = SinglePointCalculator(
            atoms, energy=rng.normal(), forces=rng.normal(size=(len(atoms), 3)), stress=rng.normal(size=6)
        )
    return made


def test_atoms_come_back_as_they_went_in():
    store = Structures.from_atoms(frames())
    for i, atoms in enumerate(frames()):
        back = store.to_atoms(i)
        assert back == atoms
        assert back.get_potential_energy() == atoms.get_potential_energy()
        np.testing.assert_array_equal(back.get_forces(), atoms.get_forces())
        np.testing.assert_array_equal(back.get_stress(), atoms.get_stress())


def test_info_and_arrays_are_read_where_there_is_no_calculator():
    atoms = molecule("H2O")
    atoms.info["energy"], atoms.arrays["forces"] = -1.0, np.ones((3, 3))
    atoms.info["REF_energy"] = np.array([-2.0])
    assert Structures.from_atoms([atoms]).energy.tolist() == [-1.0]
    assert Structures.from_atoms([atoms], energy_key="REF_energy").energy.tolist() == [-2.0]
    np.testing.assert_array_equal(Structures.from_atoms([atoms]).forces, 1.0)


def test_labels_of_a_wrong_form_are_refused():
    atoms = molecule("H2O")
    for key, value, message in [
        ("energy", "abc", "energy is not a number"),
        ("energy", np.nan, "energy is not finite"),
        ("energy", [1.0, 2.0], "energy is not a number"),
    ]:
        atoms.info = {key: value}
        with pytest.raises(InputError, match=f"frame 0: {message}"):
            Structures.from_atoms([atoms])
    atoms.info = {}
    atoms.arrays["forces"] = np.ones((3, 2))
    with pytest.raises(InputError, match=r"forces have the wrong shape, expected \(3, 3\), got \(3, 2\)"):
        Structures.from_atoms([atoms])
    with pytest.raises(InputError, match="no structures"):
        Structures.from_atoms([])


def test_a_subset_equals_the_chosen_frames():
    store = Structures.from_atoms(frames())
    chosen = [frames()[i] for i in (3, 1, 1, 0)]
    subset = store.subset([3, 1, 1, 0])
    assert subset.content_hash() == Structures.from_atoms(chosen).content_hash()
    assert store.subset(slice(1, 3)).content_hash() == store.subset(np.array([False, True, True, False])).content_hash()
    assert len(store.subset([])) == 0
    with pytest.raises(ConfigError, match=r"row number outside the set, expected 0 to 3, got 4"):
        store.subset([0, 4])


def test_splits_are_found_by_name_or_refused_with_the_nearest():
    store = dataclasses.replace(Structures.from_atoms(frames()), splits={"train": np.array([2, 0])})
    assert store.split("train").n_atoms.tolist() == [5, 3]
    with pytest.raises(ConfigError, match=r'unknown split "trian"; did you mean "train"'):
        store.split("trian")
    with pytest.raises(ConfigError, match="this set has no splits"):
        store.split("train").split("train")


def test_the_hash_follows_every_array_and_nothing_else():
    store = Structures.from_atoms(frames())
    seen = {store.content_hash()}
    assert dataclasses.replace(store, name="other", source="other", splits={"a": np.arange(1)}).content_hash() in seen
    for key in ("numbers", "pos", "cell", "energy", "forces", "stress"):
        changed = getattr(store, key).copy()
        changed.reshape(-1)[0] += 1
        seen.add(dataclasses.replace(store, **{key: changed}).content_hash())
    seen.add(dataclasses.replace(store, pbc=~store.pbc).content_hash())
    seen.add(dataclasses.replace(store, stress=None).content_hash())
    assert len(seen) == 9


@pytest.mark.parametrize("key", ["numbers", "pos", "cell", "pbc", "energy", "forces", "stress"])
def test_arrays_of_unequal_length_are_refused_by_name(key):
    store = Structures.from_atoms(frames())
    with pytest.raises(InputError, match=f"`{key}` has the wrong shape, expected"):
        dataclasses.replace(store, **{key: getattr(store, key)[:-1]})
    with pytest.raises(InputError, match="`ptr` must be ascending"):
        dataclasses.replace(store, ptr=store.ptr[::-1])


def test_missing_labels_are_told_per_structure():
    made = frames()
    made[1].calc = None
    store = Structures.from_atoms(made)
    for quantity in ("energy", "forces", "stress"):
        assert store.labelled(quantity).tolist() == [True, False, True, True]
    assert store.to_atoms(1).calc is None
    with pytest.raises(ConfigError, match=r'unknown label "force"; did you mean "forces"'):
        store.labelled("force")


def test_the_description_counts_right():
    figures = describe(Structures.from_atoms(frames()))
    assert figures["structures"] == 4
    assert figures["atoms"] == 3 + 4 + 5 + 1
    assert figures["elements"] == [1, 6, 8, 29]
    assert figures["periodic_structures"] == 1
    assert figures["labelled_structures"] == {"energy": 4, "forces": 4, "stress": 4}
