"""What is left of a run: molecules with the right bonds, files, tags."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from geomol.errors import ConfigError
from geomol.generate.bonds import edm_bonds
from geomol.generate.molecules import structures_of
from geomol.generate.protocols import PROTOCOLS
from geomol.generate.read import read_molecules
from geomol.generate.request import Request
from geomol.generate.results import agreement, check_output, relaxed_structures, tags_of, to_molecules, write_molecules
from geomol.generate.sampling import Sample
from geomol.generate.score import score

FRAMES = [molecule(name) for name in ("CH3CH2OH", "H2O", "HCN")]
STRUCTURES = structures_of([f.numbers for f in FRAMES], [f.positions for f in FRAMES], name="mols")
ORDERS = [np.asarray(o) for o in edm_bonds(STRUCTURES)]


def samples(*, bonds: bool, spoilt: int | None = None) -> list[Sample]:
    out = []
    for i, frame in enumerate(FRAMES):
        orders = ORDERS[i].copy() if bonds else None
        if i == spoilt:
            orders[0, 1] = orders[1, 0] = 0
        request = Request(len(frame), 100 + i, context={"gap": 7.5})
        out.append(Sample(request, frame.numbers, frame.positions, orders))
    return out


def test_bonds_are_those_of_the_head_or_else_of_the_distances() -> None:
    told = to_molecules(samples(bonds=True, spoilt=1))
    assert told.orders[1][0, 1] == 0
    implied = to_molecules(samples(bonds=False))
    for got, expected in zip(implied.orders, ORDERS, strict=True):
        assert np.array_equal(got, expected)
    mixed = [samples(bonds=True, spoilt=1)[1], *samples(bonds=False)[1:]]
    assert np.array_equal(to_molecules(mixed).orders[0], ORDERS[1])


def test_molecules_whose_bonds_contradict_their_distances_are_known() -> None:
    assert agreement(to_molecules(samples(bonds=True))).tolist() == [True, True, True]
    assert agreement(to_molecules(samples(bonds=True, spoilt=1))).tolist() == [True, False, True]


@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".extxyz"])
def test_files_hold_what_was_made(suffix: str, tmp_path: Path) -> None:
    made = samples(bonds=True)
    molecules = to_molecules(made)
    result = {"edm": score(molecules, PROTOCOLS["edm"])}
    tags = tags_of(made, molecules, result, [], {"model_sha256": "abc"})
    path = tmp_path / f"out{suffix}"
    write_molecules(path, molecules.structures, molecules.orders, tags)
    back = read_molecules(path)
    for i, frame in enumerate(FRAMES):
        assert np.array_equal(back.numbers(i), frame.numbers)
        assert np.allclose(back.pos(i), frame.positions, atol=1e-4)
    if suffix == ".sdf":
        assert all(np.array_equal(a, b) for a, b in zip(back.orders, ORDERS, strict=True))
        assert [row["seed"] for row in back.properties] == ["100", "101", "102"]
        assert "CCO" in back.properties[0]["smiles"]
    else:
        assert len(ase.io.read(path, ":", format="extxyz")) == 3


def test_tags_say_what_is_known() -> None:
    made = samples(bonds=True, spoilt=1)
    molecules = to_molecules(made)
    result = {name: score(molecules, PROTOCOLS[name]) for name in ("edm", "graph")}
    tags = tags_of(made, molecules, result, [], {"model_sha256": "abc"})
    assert [row["number"] for row in tags] == [0.0, 1.0, 2.0]
    assert [row["bonds_agree"] for row in tags] == [1.0, 0.0, 1.0]
    assert all(row["edm_stable"] == 1.0 and row["asked_gap"] == 7.5 and row["model_sha256"] == "abc" for row in tags)
    assert tags[1]["graph_stable"] == 0.0
    assert "strain_kcal_per_mol" not in tags[0]
    plain = tags_of(samples(bonds=False), to_molecules(samples(bonds=False)), {"edm": result["edm"]}, [], {})
    assert "bonds_agree" not in plain[0]


def test_without_relaxations_there_are_no_relaxed_structures() -> None:
    assert len(relaxed_structures([])) == 0


@pytest.mark.parametrize("name", ["mols", "mols.pdb", "mols.sdf.gz"])
def test_other_kinds_of_files_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected \.sdf, \.xyz, \.extxyz"):
        check_output(Path(name))
    check_output(Path("MOLS.SDF"))
