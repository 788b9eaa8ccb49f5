"""`geomol score`: the figures of the functions behind it, the data row, the table of molecules, and bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from geomol.cli import main
from geomol.generate.bonds import edm_bonds
from geomol.generate.molecules import structures_of
from geomol.generate.protocols import edm_protocol
from geomol.generate.read import read_molecules
from geomol.generate.score import shares_of
from geomol.generate.sdf import write_sdf

NAMES = ["CH3CH2OH", "H2O", "CH4", "CH3", "H2O", "HCN"]


@pytest.fixture
def sdf(tmp_path: Path) -> str:
    """Six molecules, one a radical and one twice, and a broken record."""
    frames = [molecule(name) for name in NAMES]
    structures = structures_of([f.numbers for f in frames], [f.positions for f in frames], name="mols")
    path = write_sdf(tmp_path / "mols.sdf", structures, edm_bonds(structures), [{"seed": i} for i in range(6)])
    path.write_text(path.read_text() + "broken\n$$$$\n")
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "train.xyz"
    ase.io.write(path, [molecule(name) for name in ("H2O", "CH3OH", "C2H6", "NH2")])
    return str(path)


def test_the_json_has_the_figures_of_the_library_and_the_data_row(sdf, data, capsys):
    assert main(["score", sdf, "-p", "edm", "-p", "strict", "--train", data, "--json", "-"]) == 0
    captured = capsys.readouterr()
    figures = json.loads(captured.out)
    known = edm_protocol(read_molecules(data))
    expected = shares_of(edm_protocol(read_molecules(sdf)), {text for text in known.smiles if text})
    edm = figures["scores"]["edm"]
    for name, entry in expected.items():
        assert edm[name] == entry.value
        assert edm[f"{name}_standard_error"] == entry.error
    assert edm["molecules"] == 7
    assert edm["unreadable"] == 1
    assert edm["molecule_stability"] == 5 / 7
    assert edm["valid"] == 6 / 7
    assert edm["novel_of_unique"] == 4 / 5, "water is known"
    assert figures["scores"]["strict"]["valid"] == 5 / 7
    assert figures["data"]["scores"]["edm"]["molecule_stability"] == 3 / 4
    assert figures["novelty_against"] == data
    import rdkit

    assert figures["rdkit_version"] == rdkit.__version__
    assert f"RDKit {rdkit.__version__}" in captured.err
    assert "4 of the data" in captured.err


def test_all_protocols_run_on_a_file_with_bonds(sdf, data, capsys):
    words = [word for name in ("edm", "strict", "graph", "rdkit") for word in ("-p", name)]
    assert main(["score", sdf, *words, "--reference", data, "--reference-size", "2", "--json", "-"]) == 0
    captured = capsys.readouterr()
    figures = json.loads(captured.out)
    assert {name: entry["molecule_stability"] for name, entry in figures["scores"].items()} == dict.fromkeys(
        ("edm", "strict", "graph", "rdkit"), 5 / 7
    )
    assert figures["data"]["scores"]["rdkit"]["molecules"] == 2
    assert "graph" not in figures["data"]["scores"]
    assert "has no bonds" in captured.err
    assert "novel_of_unique" not in figures["scores"]["edm"], "--reference is no training set"


def test_the_table_has_a_line_for_every_molecule(sdf, data, tmp_path, capsys):
    out = tmp_path / "table.csv"
    assert main(["score", sdf, "--train", data, "--csv", str(out)]) == 0
    assert "molecule stability" in capsys.readouterr().out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == list("0123456")
    assert [row["seed"] for row in rows] == ["0", "1", "2", "3", "4", "5", ""]
    assert [row["edm_stable"] for row in rows] == list("1110110")
    assert [row["edm_first_of_its_kind"] for row in rows] == list("1111010")
    assert rows[1]["edm_novel"] == rows[4]["edm_novel"] == "0"
    assert rows[0]["edm_novel"] == "1"
    assert rows[1]["edm_smiles"] == "[H]O[H]"
    assert rows[3]["edm_reason"] == "C0 has 3 bonds, not 4"
    assert rows[6]["edm_reason"].startswith("unreadable record")


def test_novelty_against_a_list_of_smiles(sdf, tmp_path, capsys):
    smiles = tmp_path / "train.smi"
    smiles.write_text("[H]O[H] water\n\n[H]C#N\n")
    assert main(["score", sdf, "--train", str(smiles), "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["scores"]["edm"]["novel_of_unique"] == 3 / 5
    assert figures["data"]["scores"] == {}


def test_an_xyz_file_has_no_bonds_for_the_graph_protocol(data, capsys):
    assert main(["score", data, "-p", "graph"]) == 2
    assert "came without bonds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "edn"], 'unknown protocol "edn"; did you mean "edm"?'),
        (["--train", "missing.smi"], "missing.smi: cannot read the file, got No such file"),
        (["--train", "missing.sdf"], "missing.sdf: no such file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(sdf, words, message, capsys):
    assert main(["score", sdf, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_score_does_not_depend_on_the_format(sdf, tmp_path, capsys):
    frames = [molecule(name) for name in NAMES]
    ase.io.write(tmp_path / "mols.xyz", frames)
    np.savez(
        tmp_path / "mols.npz",
        numbers=np.concatenate([f.numbers for f in frames]),
        positions=np.concatenate([f.positions for f in frames]),
        n_atoms=np.array([len(f) for f in frames]),
    )
    found = []
    for name in ("mols.xyz", "mols.npz"):
        assert main(["score", str(tmp_path / name), "--json", "-"]) == 0
        edm = json.loads(capsys.readouterr().out)["scores"]["edm"]
        found.append({key: value for key, value in edm.items() if key != "time_s"})
    assert found[0] == found[1]
    assert found[0]["molecule_stability"] == 5 / 6
