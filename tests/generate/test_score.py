"""The figures of a set: definitions by counting, denominators, standard errors, and room for more metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from geomol.generate.molecules import Molecules, structures_of
from geomol.generate.protocols import Verdicts, edm_protocol
from geomol.generate.score import kind_of_fault, ratio, score, share, shares_of


def verdicts_with(smiles: list[str], atoms: list[int], stable: list[int], fragments: list[int]) -> Verdicts:
    size = len(smiles)
    return Verdicts(
        protocol="made up",
        n_atoms=np.array(atoms),
        stable_atoms=np.array(stable),
        stable=np.array(atoms) == np.array(stable),
        valid=np.array([bool(text) for text in smiles], dtype=np.bool_),
        fragments=np.array(fragments),
        smiles=smiles,
        reasons=[""] * size,
        orders=[None] * size,
        charges=[None] * size,
    )


def test_the_figures_are_counted_as_defined():
    """Eight molecules: six valid, of which four differ, of which one is in the training set."""
    made = verdicts_with(
        ["A", "A", "B", "", "C", "C", "D", ""],
        [3, 3, 5, 4, 2, 2, 1, 0],
        [3, 3, 4, 0, 2, 2, 0, 0],
        [1, 1, 2, 1, 1, 1, 1, 0],
    )
    values = {name: entry.value for name, entry in shares_of(made, {"C", "X"}).items()}
    assert values == {
        "atom_stability": pytest.approx(14 / 20),
        "molecule_stability": 5 / 8,
        "valid": 6 / 8,
        "connected": 6 / 8,
        "valid_connected": 5 / 8,
        "unique_of_valid": pytest.approx(4 / 6),
        "valid_unique": 4 / 8,
        "novel_of_unique": 3 / 4,
        "valid_unique_novel": 3 / 8,
    }
    assert "novel_of_unique" not in shares_of(made)
    assert shares_of(made, set())["novel_of_unique"].value == 1.0


def test_records_that_cannot_be_read_lower_every_share_of_molecules():
    frames = [molecule("H2O"), molecule("CH4"), Atoms(), Atoms()]
    molecules = Molecules(
        structures_of([f.numbers for f in frames], [f.positions for f in frames], name="x"),
        faults={2: "unreadable record: not a mol block", 3: "unreadable record: empty"},
    )
    result = score(molecules, edm_protocol, train_smiles=["[H]O[H]"])
    for name in ("molecule_stability", "valid", "connected", "valid_unique"):
        assert result.shares[name].value == 0.5
    assert result.shares["valid_unique_novel"].value == 0.25
    assert result.shares["atom_stability"].value == 1.0, "of the atoms that there are"
    assert result.unreadable == 2
    assert result.failures == {"unreadable record": 2}


def test_standard_errors_are_those_of_many_repetitions():
    """The witness: 4000 draws of 50 molecules, in which all atoms of a molecule fail together."""
    generator = np.random.default_rng(0)
    atoms, good = generator.integers(3, 20, size=(4000, 50)), generator.random((4000, 50)) < 0.8
    values = [ratio(a * g, a) for a, g in zip(atoms, good, strict=True)]
    observed = float(np.std([entry.value for entry in values]))
    assert np.mean([entry.error for entry in values]) == pytest.approx(observed, rel=0.05)
    naive = math.sqrt(0.8 * 0.2 / atoms[0].sum())
    assert naive < 0.5 * observed, "counting atoms as independent would claim too much"
    draws = generator.binomial(50, 0.3, size=4000) / 50
    assert share(15, 50).error == pytest.approx(float(draws.std()), rel=0.05)


def test_figures_of_nothing_are_no_numbers():
    assert math.isnan(share(0, 0).value)
    result = score(Molecules(structures_of([], [], name="none")), edm_protocol)
    assert result.molecules == 0
    assert all(math.isnan(entry.value) for entry in result.shares.values())


def test_further_metrics_see_molecules_and_verdicts():
    frames = [molecule("H2O"), molecule("CH3")]
    molecules = Molecules(structures_of([f.numbers for f in frames], [f.positions for f in frames], name="x"))

    def bonds_per_molecule(molecules: Molecules, verdicts: Verdicts) -> dict[str, float]:
        return {"bonds_mean": float(np.mean([matrix.sum() / 2 for matrix in verdicts.orders]))}

    figures = score(molecules, edm_protocol, metrics=[bonds_per_molecule]).figures()
    assert figures["bonds_mean"] == 2.5
    assert figures["molecule_stability"] == 0.5
    assert figures["molecule_stability_standard_error"] == pytest.approx(math.sqrt(0.125))
    assert figures["time_s"] >= 0


def test_reasons_are_counted_by_kind():
    reasons = ["C3 has 5 bonds, not 4", "H1 has 0 bonds, not 1", "something about atom 12", "something about atom 7"]
    assert len({kind_of_fault(reason) for reason in reasons}) == 2
