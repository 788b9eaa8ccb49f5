"""The gallery of molecules: what its script is given, what the page says, and that no name becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rdkit import Chem

from geomol.data import Structures
from geomol.errors import ConfigError, InputError, OutputError
from geomol.generate import PROTOCOLS, Molecules, Score, read_molecules, score, structures_of
from geomol.report import write_gallery
from geomol.report.gallery_columns import columns, label_of
from geomol.report.gallery_data import formula
from geomol.report.gallery_depict import HEIGHT, WIDTH, depict
from geomol.report.gallery_frames import MAX_FRAMES, superposed

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&$ \ud800"
VOID = {"meta", "input", "img", "br", "link", "hr", "base"}

METHANE = np.array(
    [[0.0, 0.0, 0.0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]
)
WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


class Page(HTMLParser):
    """Tags, text outside scripts and styles, the data of the script, and whether elements are closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.faults: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self._json = ""
        self.feed(self.source)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag, _ in self._open]
        self.text = " ".join(" ".join(self.words).split())
        self.data: dict[str, Any] = json.loads(self._json)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop()[0] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        inside, name = self._open[-1] if self._open else ("", None)
        if inside == "script" and name == "gallery-data":
            self._json += data
        elif inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.words.append(data)

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if attributes.get("id")]


def small_set() -> Molecules:
    """Methane, water, methane again, a methyl radical beside an atom, nothing at all, NaN, and a lone atom."""
    lost = METHANE.copy()
    lost[4] += 3.0
    broken = WATER.copy()
    broken[1, 0] = np.nan
    parts = [
        ([6, 1, 1, 1, 1], METHANE),
        ([8, 1, 1], WATER),
        ([6, 1, 1, 1, 1], METHANE + 1.0),
        ([6, 1, 1, 1, 1], lost),
        ([], np.zeros((0, 3))),
        ([8, 1, 1], broken),
        ([7], np.zeros((1, 3))),
    ]
    numbers = [np.array(part, dtype=np.int64) for part, _ in parts]
    structures = structures_of(numbers, [pos for _, pos in parts], name="small")
    return Molecules(structures=structures, faults={4: "unreadable record"})


def scores_of(molecules: Molecules, *names: str, train: Collection[str] | None = None) -> dict[str, Score]:
    return {name: score(molecules, PROTOCOLS[name], train_smiles=train) for name in names or ("edm",)}


def positions(entry: dict[str, Any], scale: float) -> np.ndarray:
    return scale * np.array(entry["x"], dtype=np.float64).reshape(-1, 3)


@pytest.fixture(scope="module")
def molecules() -> Molecules:
    return small_set()


@pytest.fixture(scope="module")
def trajectory() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    amount = np.linspace(1.0, 0.0, 101)[:, None, None]
    pos = 2.0 + METHANE + amount * rng.normal(size=(101, 5, 3))
    numbers = np.tile([6, 1, 1, 1, 1], (101, 1))
    numbers[:50, 0] = 8
    return pos, numbers


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


def turned(structures: Structures) -> Structures:
    """The same molecules in another place and pose, methane 0 with one hydrogen pulled off."""
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    pos = structures.pos @ turn + [1.0, -2.0, 0.5]
    pos[4] += 2.0 * (pos[4] - pos[0])
    parts = np.split(pos, structures.ptr[1:-1])
    return structures_of(np.split(structures.numbers, structures.ptr[1:-1]), parts, name="relaxed")


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
