"""Datasets by name: the order of the folders, verified sums, downloaded originals, missing ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from geomol.data import find_dataset, list_datasets, load_structures, official_split
from geomol.data.units import KCAL_PER_MOL
from geomol.errors import ConfigError, DataError, InputError


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    made = {"stated": tmp_path / "stated", "cache": tmp_path / "xdg" / "geomol", "here": tmp_path / "cwd" / "data"}
    for folder in made.values():
        folder.mkdir(parents=True)
    monkeypatch.setenv("GEOMOL_DATA", str(made["stated"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path / "cwd")
    return made


def compact(path: Path, energy: float, **more: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        n_atoms=np.array([1, 1]),
        numbers=np.array([1, 1]),
        positions=np.zeros((2, 3)),
        energies=np.full(2, energy),
        **more,
    )
    return path


def test_folders_are_searched_in_their_order(folders):
    for energy, key in enumerate(("here", "cache", "stated")):
        compact(folders[key] / "mini" / "mini.npz", -energy)
        structures = load_structures("mini")
        assert structures.energy.tolist() == [-energy] * 2
        assert structures.name == "mini"
    assert find_dataset("mini").kind == "$GEOMOL_DATA"


def test_bundled_sets_bring_their_splits_and_are_held_to_their_sums(folders):
    path = compact(folders["here"] / "mini" / "mini.npz", -1.0, train=np.array([1]), test=np.array([0]))
    sums = path.parent / "SHA256SUMS"
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(f"{right}  mini.npz\n{'0' * 64}  README.md\n")
    assert sorted(load_structures("mini").splits) == ["test", "train"]
    sums.write_text(f"{'0' * 64}  mini.npz\n")
    with pytest.raises(
        DataError, match=rf"mini.npz: wrong sha256 checksum, the file is not used, expected {'0' * 64}, got {right}"
    ):
        load_structures("mini")
    sums.write_text("\n")
    with pytest.raises(DataError, match="expected a line in SHA256SUMS"):
        load_structures("mini")


def rmd17_original(folder: Path, frames: int = 2000) -> np.ndarray:
    """The published layout in small: kcal/mol, and row numbers in text files."""
    rng = np.random.default_rng(0)
    positions = np.array([[0, 0, 0], [0, 0, 0.96]]) + rng.normal(size=(frames, 2, 3)) * 0.02
    energies = (-75.4 * 27.211386 + rng.normal(size=frames)) / KCAL_PER_MOL
    (folder / "splits").mkdir(parents=True)
    forces = rng.normal(size=positions.shape) / KCAL_PER_MOL
    np.savez(
        folder / "rmd17_ethanol.npz",
        nuclear_charges=np.array([8, 1]),
        coords=positions,
        energies=energies,
        forces=forces,
    )
    order = rng.permutation(frames)
    for part, rows in (("train", order[:1000]), ("test", order[1000:])):
        (folder / "splits" / f"index_{part}_03.csv").write_text("\n".join(map(str, rows)) + "\n")
    return energies


def test_a_downloaded_rmd17_file_is_converted_and_has_its_official_splits(folders):
    energies = rmd17_original(folders["cache"] / "rmd17")
    structures = load_structures("rmd17/ethanol")
    np.testing.assert_allclose(structures.energy, energies * KCAL_PER_MOL, rtol=1e-14)
    assert "kcal/mol,Angstrom" in structures.source
    assert {name: len(rows) for name, rows in official_split(structures, 3).items()} == {
        "train": 950,
        "valid": 50,
        "test": 1000,
    }


def test_a_split_file_with_other_content_is_refused(folders):
    rmd17_original(folders["cache"] / "rmd17")
    table = folders["cache"] / "rmd17" / "splits" / "index_train_03.csv"
    table.write_text("1\ntwo\n")
    with pytest.raises(InputError, match="something else than row numbers"):
        load_structures("rmd17/ethanol")
    table.write_text("1\n2000\n")
    with pytest.raises(ConfigError, match="1 row numbers exceed the data"):
        load_structures("rmd17/ethanol")


def test_a_compact_file_of_that_name_is_preferred_in_the_same_folder(folders):
    rmd17_original(folders["cache"] / "rmd17")
    compact(folders["cache"] / "rmd17" / "ethanol.npz", -5.0)
    assert load_structures("rmd17/ethanol").energy.tolist() == [-5.0, -5.0]


def test_row_30_missing_datasets_say_how_to_get_them(folders):
    with pytest.raises(
        DataError, match=r'"rmd17/aspirin" is not on this machine; download it: geomol data get rmd17/aspirin'
    ):
        load_structures("rmd17/aspirin")
    (folders["cache"] / "qm9").mkdir()
    (folders["cache"] / "qm9" / "dsgdb9nsd.xyz.tar.bz2").touch()
    with pytest.raises(DataError, match="downloaded but has no reader"):
        load_structures("qm9")
    with pytest.raises(DataError, match=r'no dataset "rmd17/asprin"; did you mean "rmd17/aspirin"'):
        load_structures("rmd17/asprin")


@pytest.mark.parametrize("name", ["../secret", "a/../b", "/etc/passwd", "", "a/b/c", "set.pdf/."])
def test_names_cannot_leave_the_data_folders(folders, name):
    with pytest.raises(DataError, match=r"is no file and no dataset|kind of file is not read"):
        load_structures(name)


def test_the_list_has_what_can_be_loaded_and_what_can_be_had(folders):
    compact(folders["here"] / "mini" / "mini.npz", -1.0)
    compact(folders["stated"] / "pair" / "One.npz", -1.0)
    rmd17_original(folders["cache"] / "rmd17")
    np.savez(folders["stated"] / "pair" / "voxels.npz", voxels=np.zeros(3))
    kinds = {entry.name: entry.kind for entry in list_datasets()}
    assert kinds["mini"] == "bundled"
    assert kinds["pair/One"] == "$GEOMOL_DATA"
    assert kinds["rmd17/ethanol"] == "cache"
    assert kinds["rmd17/aspirin"] == kinds["qm9"] == "download"
    assert not any("voxels" in name for name in kinds)
