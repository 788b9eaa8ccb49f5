"""SMILES in files: names, comments, and faults with the line they stand on."""

import numpy as np
import pytest

from geomol.cli import main
from geomol.data import structures_from_smiles, structures_of_lines
from geomol.data.smiles_files import read_smiles_file, smiles_of_words
from geomol.errors import DataError, GeomolWarning, InputError


def written(tmp_path, content):
    path = tmp_path / "some.smi"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_names_comments_and_marks_are_what_they_are(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbfCCO ethanol, dry\n\n# a comment\nO\nC\tmethane gas\n")
    lines = read_smiles_file(path)
    assert [(line.text, line.name) for line in lines] == [("CCO", "ethanol, dry"), ("O", "O"), ("C", "methane gas")]
    assert lines[1].where == f"{path}, line 4"
    structures, names = structures_of_lines(lines)
    assert names == ["ethanol, dry", "O", "methane gas"]
    assert np.diff(structures.ptr).tolist() == [9, 3, 5]


@pytest.mark.parametrize(
    ("content", "message"), [("", "no molecule"), ("# nothing\n", "no molecule"), (b"\xff\xfe\x00", "not a text file")]
)
def test_files_without_molecules_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_smiles_file(written(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_smiles_file(tmp_path / "none.smi")


def test_a_bad_line_is_named_or_left_out(tmp_path, caplog):
    lines = read_smiles_file(written(tmp_path, "O water\nC1CC broken\nCO\n"))
    with pytest.raises(InputError, match=r"line 2: not a SMILES"):
        structures_of_lines(lines)
    structures, names = structures_of_lines(lines, skip_bad=True)
    assert names == ["water", "CO"]
    assert len(structures) == 2
    assert "line 2" in caplog.text
    with pytest.raises(InputError, match="no molecule could be built"):
        structures_of_lines(lines[1:2], skip_bad=True)


@pytest.mark.parametrize("text", ["CC(=O)[O-]", "[CH3]"])
def test_ions_and_radicals_are_warned_of(text):
    with pytest.warns(GeomolWarning, match="charges or unpaired electrons"):
        structures_from_smiles(["O", text])
    assert len(structures_of_lines(smiles_of_words("O,C[N+](=O)[O-]"))[0]) == 2  # neutral as a whole


def test_a_file_of_another_kind_is_called_so(tmp_path, capsys):
    path = tmp_path / "some.pdb"
    path.write_text("ATOM\n")
    assert main(["predict", "qm9-gap", str(path), "-o", str(tmp_path / "t.csv")]) != 0
    assert "kind of file is not read" in capsys.readouterr().err
