"""The gallery given nothing, odd, too many or foreign molecules; how it draws a formula and names a column."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from report.gallery_case import METHANE, Page, scores_of

from geomol.errors import ConfigError, InputError, OutputError
from geomol.generate import Molecules, read_molecules, structures_of
from geomol.report import write_gallery
from geomol.report.gallery_columns import columns, label_of
from geomol.report.gallery_data import formula
from geomol.report.gallery_depict import HEIGHT, WIDTH, depict
from geomol.report.gallery_frames import superposed


def test_trajectories_stay_within_their_budget_and_those_left_out_are_counted(
    molecules: Molecules, trajectory: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("geomol.report.gallery_frames.MAX_FRAME_BYTES", 5_000)
    given = dict.fromkeys((0, 2, 3, 6), trajectory)
    path = write_gallery(tmp_path / "p.html", molecules, scores_of(molecules), title="t", trajectories=given)
    page = Page(path)
    assert list(page.data["trajectories"]) == ["0", "2", "3"]
    assert page.data["omitted"] == 1
    assert "1 denoising trajectories found no room" in page.text
    assert len(json.dumps(page.data["trajectories"], separators=(",", ":"))) < 5_000


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_set_and_a_lone_empty_molecule_give_a_page(count: int, tmp_path: Path) -> None:
    nothing = Molecules(structures_of([np.zeros(0, np.int64)] * count, [np.zeros((0, 3))] * count, name="none"))
    found = Page(write_gallery(tmp_path / "p.html", nothing, scores_of(nothing, "edm", "strict"), title="none"))
    assert found.faults == []
    assert len(found.data["molecules"]) == count


def test_numbers_that_are_no_elements_and_far_positions_do_not_break_the_page(tmp_path: Path) -> None:
    pos = [np.eye(3), np.array([[0.0, 0.0, 0.0], [1e6, np.inf, 0.0]])]
    plain, odd = (
        Molecules(structures_of([np.array(numbers), np.array([6, 1])], pos, name="odd"))
        for numbers in ([6, 6, 6], [0, 200, 6])
    )
    path = write_gallery(tmp_path / "p.html", odd, scores_of(plain), title="odd", relaxed=odd.structures)
    found = Page(path)
    assert found.data["molecules"][0]["d"] is None
    assert found.data["molecules"][0]["f"].startswith("C")
    assert found.data["molecules"][1]["x"] is None


def test_equal_molecules_give_equal_pages(molecules: Molecules, tmp_path: Path) -> None:
    first, second = (write_gallery(tmp_path / n, molecules, scores_of(molecules), title="t") for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_parts_of_other_molecules_are_refused(molecules: Molecules, tmp_path: Path) -> None:
    out, scores = tmp_path / "p.html", scores_of(molecules)
    other = molecules.subset(np.arange(3))
    frames = np.zeros((4, 2, 3)), np.zeros((4, 3), dtype=np.int64)
    with pytest.raises(ConfigError, match="score of one protocol"):
        write_gallery(out, molecules, {}, title="t")
    with pytest.raises(InputError, match='score "edm" is of other molecules'):
        write_gallery(out, other, scores, title="t")
    with pytest.raises(InputError, match="`properties` of another length"):
        write_gallery(out, molecules, scores, title="t", properties=[{}])
    with pytest.raises(InputError, match="`relaxed` must have the atoms"):
        write_gallery(out, molecules, scores, title="t", relaxed=other.structures)
    with pytest.raises(InputError, match="trajectory of no molecule"):
        write_gallery(out, molecules, scores, title="t", trajectories={7: frames})
    with pytest.raises(InputError, match="trajectory of the wrong shape"):
        write_gallery(out, molecules, scores, title="t", trajectories={0: frames})
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        write_gallery(blocked / "p.html", molecules, scores, title="t")


def test_a_formula_shows_charges_hydrogens_and_lies_within_its_frame() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("C[N+](=O)[O-]"))
    Chem.Kekulize(mol)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    charges = np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()])
    orders = Chem.GetAdjacencyMatrix(mol, useBO=True).astype(np.int8)
    drawing = depict(numbers, orders, charges, marked=[1])
    assert drawing is not None
    assert sorted(letter[0] for letter in drawing["t"]) == ["+", "-", "N", "O", "O"]
    assert {letter[4] for letter in drawing["t"]} == {"n", "o"}
    assert len(drawing["m"]) == 2
    points = [int(value) for path in drawing["p"].values() for value in re.findall(r"-?\d+", path)]
    assert min(points) >= 0
    assert max(points[0::2]) <= 10 * WIDTH
    assert max(points[1::2]) <= 10 * HEIGHT


def test_a_tangle_of_bonds_is_not_drawn() -> None:
    numbers = np.full(29, 6)
    orders = np.ones((29, 29), dtype=np.int8) - np.eye(29, dtype=np.int8)
    assert depict(numbers, orders) is None
    assert depict(np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.int8)) is None


def test_a_molecule_that_rdkit_refuses_is_drawn_as_it_is() -> None:
    numbers = np.array([6, 8, 8, 8])
    orders = np.zeros((4, 4), dtype=np.int8)
    orders[0, 1:] = orders[1:, 0] = 2
    drawing = depict(numbers, orders)
    assert drawing is not None
    assert [letter[0] for letter in drawing["t"]] == ["O", "O", "O"]


def test_labels_formulas_and_poses() -> None:
    assert label_of("strain_kcal_per_mol") == ("strain", "kcal/mol")
    assert label_of("heavy_rmsd_A") == ("heavy RMSD", "Å")
    assert label_of("_s") == (" s", "")
    assert formula(np.array([8, 1, 1])) == "H2O"
    assert formula(np.array([1, 8, 6, 1, 17, 1])) == "CH3ClO"
    assert columns(2, [[], [{"a": True}, {}]])[0]["values"] == ["yes", None]
    mirrored = superposed(METHANE * [1.0, 1.0, -1.0], METHANE)
    np.testing.assert_allclose(np.sort(np.linalg.norm(mirrored, axis=1)), [0, *[0.63 * 3**0.5] * 4], atol=1e-12)


def test_a_thousand_molecules_of_qm9_stay_below_four_megabytes(tmp_path: Path) -> None:
    if not os.environ.get("GEOMOL_DATA"):
        pytest.skip("GEOMOL_DATA is unset: QM9 is not part of the repository")
    data = read_molecules("qm9").structures
    rng = np.random.default_rng(0)
    some = data.subset(np.sort(rng.permutation(len(data))[:1000]))
    noisy = structures_of(
        np.split(some.numbers, some.ptr[1:-1]),
        np.split(some.pos + 0.03 * rng.normal(size=some.pos.shape), some.ptr[1:-1]),
        name="noisy",
    )
    molecules = Molecules(noisy)
    page = Page(write_gallery(tmp_path / "p.html", molecules, scores_of(molecules), title="QM9", relaxed=some))
    assert len(page.source.encode()) < 4e6
    drawn = sum(entry["d"] is not None for entry in page.data["molecules"])
    assert drawn > 990
    assert 0 < page.data["protocols"][0]["stable"].count("1") < 1000
