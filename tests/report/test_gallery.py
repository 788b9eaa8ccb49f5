"""The gallery of molecules: what its script is given, what the page says, and that no name becomes markup."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from report.gallery_case import Page, positions, scores_of, turned

from geomol.generate import Molecules
from geomol.report import write_gallery
from geomol.report.gallery_frames import MAX_FRAMES

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&$ \ud800"


@pytest.fixture(scope="module")
def page(
    molecules: Molecules, trajectory: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Page:
    scores = scores_of(molecules, "edm", "strict")
    methane = scores["edm"].verdicts.smiles[0]
    properties: list[dict[str, float | str]] = [
        {"strain_kcal_per_mol": float(i), "way": "MMFF94", "rank": str(i)} for i in range(7)
    ]
    properties[5] = {"strain_kcal_per_mol": float("inf"), "way": "none"}
    properties[6] = {"strain_kcal_per_mol": float("nan")}
    path = write_gallery(
        tmp_path_factory.mktemp("gallery") / "page.html",
        molecules,
        scores,
        title="Seven molecules",
        facts={"model": "qm9-generator", "seed": "7", "command": "geomol sample qm9-generator -n 7 " + 8 * "--again "},
        properties=properties,
        relaxed=turned(molecules.structures),
        trajectories={2: trajectory},
        train_smiles={"edm": {methane}},
        data={"edm": scores["edm"]},
        data_name="itself",
    )
    return Page(path)


def test_the_page_is_well_formed_and_its_ids_are_unique(page: Page) -> None:
    assert page.faults == []
    ids = page.ids()
    assert len(ids) == len(set(ids))
    targets = [str(a["href"])[1:] for tag, a in page.tags if tag == "a" and str(a.get("href")).startswith("#")]
    assert len(targets) == 5
    assert set(targets) <= set(ids)


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img")
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, name)
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", page.source, re.IGNORECASE)
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_the_policy_admits_the_three_scripts_of_the_page_alone(page: Page) -> None:
    policy = str(next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a))
    assert policy.startswith("default-src 'none'; ")
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in page.scripts}
    assert len(hashes) == 3
    found = re.search(r"script-src ([^;]*);", policy)
    assert found is not None
    assert set(found[1].split()) == hashes


def test_the_data_give_back_the_molecules(page: Page, molecules: Molecules) -> None:
    data = page.data
    assert len(data["molecules"]) == len(molecules)
    verdicts = scores_of(molecules)["edm"].verdicts
    for i, entry in enumerate(data["molecules"]):
        numbers = [Chem.GetPeriodicTable().GetAtomicNumber(data["symbols"][place]) for place in entry["z"]]
        assert numbers == molecules.numbers(i).tolist()
        if i == 5:
            assert entry["x"] is None
            continue
        np.testing.assert_allclose(positions(entry, data["scale"]), molecules.pos(i), atol=0.51e-3)
        orders = np.zeros((len(numbers),) * 2, dtype=np.int8)
        for a, b, order in np.array(entry["b"], dtype=np.int64).reshape(-1, 3):
            orders[a, b] = orders[b, a] = order
        np.testing.assert_array_equal(orders, verdicts.orders[i])


def test_the_flags_are_the_verdicts_of_each_protocol(page: Page, molecules: Molecules) -> None:
    for entry, result in zip(page.data["protocols"], scores_of(molecules, "edm", "strict").values(), strict=True):
        verdicts = result.verdicts
        for name in ("stable", "valid", "connected"):
            assert [flag == "1" for flag in entry[name]] == getattr(verdicts, name).tolist()
        assert entry["name"] == verdicts.protocol
        assert entry["smiles"] == list(verdicts.smiles)
        assert entry["reason"] == list(verdicts.reasons)
        named = [entry["faults"][place] if place >= 0 else "" for place in entry["fault"]]
        assert {kind: named.count(kind) for kind in entry["faults"]} == dict(result.failures)


def test_repeats_and_novelty_are_told_molecule_by_molecule(page: Page, molecules: Molecules) -> None:
    edm, strict = page.data["protocols"]
    assert edm["repeat"][:3] == [-1, -1, 0]
    assert edm["novel"][:3] == "010"
    assert "novel" not in strict
    first_of_kind = sum(bool(s) and r < 0 for s, r in zip(edm["smiles"], edm["repeat"], strict=True))
    share = scores_of(molecules)["edm"].shares["valid_unique"]
    assert first_of_kind / len(molecules) == pytest.approx(share.value)


def test_smiles_are_also_given_without_hydrogens(page: Page) -> None:
    assert page.data["protocols"][0]["short"][:3] == ["C", "O", "C"]
    assert "[H]" in page.data["protocols"][0]["smiles"][0]


def test_atoms_that_are_not_stable_are_marked(page: Page) -> None:
    assert "w" not in page.data["molecules"][0]
    assert page.data["molecules"][3]["w"] == [0, 4]
    assert len(page.data["molecules"][3]["d"]["m"]) == 4


def test_properties_become_columns_with_units(page: Page) -> None:
    strain, way, rank, rmsd = page.data["properties"]
    assert (strain["label"], strain["unit"], strain["numeric"]) == ("strain", "kcal/mol", True)
    assert strain["values"] == [0, 1, 2, 3, 4, "Infinity", None]
    assert (way["numeric"], way["values"][4:]) == (False, ["MMFF94", "none", None])
    assert (rank["numeric"], rank["values"][1]) == (True, 1)
    assert (rmsd["label"], rmsd["unit"]) == ("RMSD", "Å")
    assert rmsd["values"][1:3] == [0, 0]
    assert rmsd["values"][0] > 0.5


def test_a_relaxed_molecule_lies_on_the_generated_one_and_tells_changed_bonds(page: Page, molecules: Molecules) -> None:
    first, water, *_ = page.data["relaxed"]
    np.testing.assert_allclose(positions(water, page.data["scale"]), molecules.pos(1), atol=2e-3)
    assert "b" not in water
    assert len(first["b"]) == 3 * 3
    assert page.data["relaxed"][4:6] == [None, None]


def test_a_trajectory_keeps_its_ends_its_elements_and_its_bonds(
    page: Page, trajectory: tuple[np.ndarray, np.ndarray]
) -> None:
    (name, way), *others = page.data["trajectories"].items()
    assert (name, others) == ("2", [])
    assert len(way["index"]) == MAX_FRAMES
    assert (way["index"][0], way["index"][-1], way["total"]) == (0, 100, 101)
    for t, z, x, b in zip(way["index"], way["z"], way["x"], way["b"], strict=True):
        assert page.data["symbols"][z[0]] == ("O" if t < 50 else "C")
        expected = trajectory[0][t] - trajectory[0][t].mean(axis=0)
        np.testing.assert_allclose(positions({"x": x}, page.data["scale"]), expected, atol=0.51e-3)
        assert len(b) % 3 == 0
    assert len(way["b"][-1]) == 4 * 3


def test_the_metrics_are_those_of_score_with_their_standard_errors(page: Page, molecules: Molecules) -> None:
    for result in scores_of(molecules, "edm", "strict").values():
        for name, share in result.shares.items():
            assert f"{100 * share.value:.2f} ± {100 * share.error:.2f}" in page.text, name
    assert "edm, data: 7 of itself" in page.text
    assert "geomol sample qm9-generator -n 7" in page.text


def test_every_filter_has_its_control(page: Page) -> None:
    ids = set(page.ids())
    assert {"protocol", "fault", "atoms-from", "atoms-to", "text", "sort", "direction", "clear", "cards"} <= ids
    assert {"ask-stable", "ask-valid", "ask-connected", "ask-unique", "ask-novel"} <= ids
    script = page.scripts[-1]
    for name in re.findall(r'byId\("([\w-]+)"\)', script):
        assert name in ids | {"gallery-data"}, name
    flags = {str(a["data-flag"]) for _, a in page.tags if "data-flag" in a}
    assert flags == {"stable", "valid", "connected", "unique", "novel"}


def test_hostile_strings_are_shown_and_never_become_markup(molecules: Molecules, page: Page, tmp_path: Path) -> None:
    hostile = Molecules(
        structures=molecules.structures,
        faults={4: HOSTILE},
        properties=[{HOSTILE: HOSTILE, "note": "=1+1"} for _ in range(7)],
    )
    scores = scores_of(hostile)
    object.__setattr__(scores["edm"].verdicts, "smiles", [HOSTILE] * 7)
    scores = {HOSTILE: scores["edm"]}
    path = write_gallery(
        tmp_path / "p.html",
        hostile,
        scores,
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        data=scores,
        data_name=HOSTILE,
        train_smiles={HOSTILE: {HOSTILE}},
    )
    found = Page(path)
    assert found.faults == []
    assert found.scripts == page.scripts
    assert "<" not in re.search(r'id="gallery-data">(.*?)</script>', found.source, re.DOTALL)[1]  # type: ignore[index]
    shown = HOSTILE.replace("\ud800", "?")
    assert shown in found.text
    assert not {"img", "b", "iframe"} & {tag for tag, _ in found.tags}
    assert not [a for _, a in found.tags if any(key.startswith("on") for key in a)]
    assert found.data["protocols"][0]["smiles"][0] == HOSTILE


def test_the_script_makes_no_markup_of_text(page: Page) -> None:
    for script in page.scripts[1:]:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


@pytest.mark.slow
def test_a_browser_shows_a_card_for_each_molecule_and_opens_the_one_of_the_address(
    page: Page, molecules: Molecules, tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    path = tmp_path / "page.html"
    path.write_text(page.source, encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000", "--dump-dom",
         f"{path.as_uri()}#molecule=1"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    shown = tmp_path / "shown.html"
    shown.write_text(done.stdout, encoding="utf-8")
    found = Page(shown)
    cards = [attributes for tag, attributes in found.tags if tag == "a" and attributes.get("class") == "mol"]
    assert [int(str(card["data-index"])) for card in cards] == list(range(len(molecules)))
    verdicts = scores_of(molecules)["edm"].verdicts
    for card in cards:
        i = int(str(card["data-index"]))
        assert card["data-stable"] == str(int(verdicts.stable[i]))
        assert card["data-valid"] == str(int(verdicts.valid[i]))
        assert card["data-connected"] == str(int(verdicts.connected[i]))
        assert card["data-atoms"] == str(len(molecules.numbers(i)))
    assert [card["data-unique"] for card in cards[:3]] == ["1", "1", "0"]
    assert [card["data-novel"] for card in cards[:3]] == ["0", "1", "0"]
    assert "open" in next(attributes for tag, attributes in found.tags if tag == "dialog")
    assert "#1 · H₂O" in found.text
