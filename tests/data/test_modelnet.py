"""ModelNet: the compact voxel set as its card describes it, and meshes sampled from an archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from geomol.data import VOXEL_JITTER, Clouds, load_clouds, read_compact_modelnet10, read_modelnet_meshes
from geomol.errors import ConfigError, DataError, InputError, SecurityError

TETRAHEDRON = "OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
PLATE = "OFF4 2 5\n0 0 0\n2 0 0\n2 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "ModelNet2.zip"
    with zipfile.ZipFile(path, "w") as file:
        for member, text in {
            "ModelNet2/plate/train/plate_0001.off": PLATE,
            "ModelNet2/plate/test/plate_0002.off": PLATE,
            "ModelNet2/tetra/train/tetra_0001.off": TETRAHEDRON,
            "ModelNet2/tetra/train/tetra_0002.off": TETRAHEDRON,
            "ModelNet2/tetra/train/.DS_Store": "litter",
            "__MACOSX/ModelNet2/tetra/train/._tetra_0001.off": "litter",
            "ModelNet2/README.txt": "about",
        }.items():
            file.writestr(member, text)
    return path


@pytest.fixture(scope="module")
def compact(benchmark_data: Path) -> Clouds:
    return load_clouds("modelnet10")


def test_the_compact_set_is_what_its_card_says(compact: Clouds, benchmark_data: Path) -> None:
    clouds = compact
    assert len(clouds) == 3984 + 907
    assert (clouds.sizes == 1024).all()
    counts = {part: np.bincount(clouds.label[rows], minlength=10) for part, rows in clouds.splits.items()}
    published = np.array([106, 515, 889, 200, 200, 465, 200, 680, 392, 344])
    with np.load(benchmark_data / "modelnet10" / "modelnet10.npz", allow_pickle=False) as file:
        empty = file["label_train"][file["n_surface_train"] == 0]
        points = file["points_train"][0].astype(float)
    np.testing.assert_array_equal(counts["train"], published - np.bincount(empty, minlength=10))
    assert counts["test"].sum() == 907
    np.testing.assert_allclose(clouds.pos[:1024], (points + 0.5) / 30 * 2 - 1, atol=1e-6)
    assert np.abs(clouds.pos).max() < 1
    length = np.linalg.norm(clouds.normals, axis=1)
    assert ((np.abs(length - 1) < 1e-5) | (length == 0)).all()
    assert (length == 0).mean() < 0.003


def test_normals_of_the_compact_set_mostly_point_outward(compact: Clouds) -> None:
    clouds = compact.subset(slice(0, 50))
    outward = (clouds.pos * clouds.normals).sum(1)
    assert (outward > 0).mean() > 0.7


def test_jitter_stays_within_the_voxel_and_is_repeatable(benchmark_data: Path) -> None:
    path = benchmark_data / "modelnet10" / "modelnet10.npz"
    still = read_compact_modelnet10(path, num_points=64)
    moved = read_compact_modelnet10(path, num_points=64, jitter_seed=1)
    shift = np.abs(moved.pos - still.pos)
    assert 0.99 * VOXEL_JITTER < shift.max() < VOXEL_JITTER + 1e-6
    again = read_compact_modelnet10(path, num_points=64, jitter_seed=1)
    assert moved.content_hash() == again.content_hash()
    with pytest.raises(ConfigError, match="points per shape"):
        read_compact_modelnet10(path, num_points=2048)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    arrays = {
        "points": np.zeros((2, 1024, 3), np.uint8),
        "normals": np.zeros((2, 1024, 3), np.int8),
        "label": np.zeros(2, np.uint8),
        "n_surface": np.ones(2, np.int32),
    }
    good = {f"{key}_{part}": value for key, value in arrays.items() for part in ("train", "test")}
    for change, fault in (
        ({"label_test": np.zeros(3, np.uint8)}, "arrays of test do not fit"),
        ({"points_train": np.full((2, 1024, 3), 30, np.uint8)}, "points_train are no voxels"),
        ({"label_train": np.full(2, 10, np.uint8)}, "`label` has a value without a name"),
    ):
        np.savez(tmp_path / "x.npz", **{**good, **change})
        with pytest.raises(InputError, match=fault):
            read_compact_modelnet10(tmp_path / "x.npz")
    del good["points_test"]
    np.savez(tmp_path / "x.npz", **good)
    with pytest.raises(InputError, match='no array "points_test"'):
        read_compact_modelnet10(tmp_path / "x.npz")


def test_meshes_of_an_archive_become_clouds_in_the_unit_sphere(archive: Path) -> None:
    clouds = read_modelnet_meshes(archive, num_points=200, seed=3)
    assert clouds.class_names == ("plate", "tetra")
    assert clouds.label.tolist() == [0, 0, 1, 1]
    assert {key: rows.tolist() for key, rows in clouds.splits.items()} == {"train": [1, 2, 3], "test": [0]}
    for i in range(4):
        points = clouds.pos[clouds.ptr[i] : clouds.ptr[i + 1]]
        assert len(points) == 200
        np.testing.assert_allclose(points.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(points, axis=1).max(), 1, atol=1e-6)
    assert np.abs(clouds.pos[:400, 2]).max() < 1e-6  # the plates are flat
    np.testing.assert_allclose(clouds.normals[:400], np.tile([0, 0, 1], (400, 1)), atol=1e-6)
    assert not np.array_equal(clouds.pos[400:600], clouds.pos[600:])  # two files, two draws


def test_a_cloud_does_not_depend_on_what_else_is_read(archive: Path) -> None:
    every = read_modelnet_meshes(archive, num_points=50, seed=3)
    some = read_modelnet_meshes(archive, num_points=50, seed=3, classes=("tetra",))
    np.testing.assert_array_equal(every.pos[100:], some.pos)
    assert not np.array_equal(some.pos, read_modelnet_meshes(archive, num_points=50, seed=4, classes=("tetra",)).pos)
    folder = archive.parent / "unpacked"
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    (folder / "__MACOSX" / "ModelNet2" / "tetra" / "train" / "._tetra_0001.off").unlink()
    assert read_modelnet_meshes(folder, num_points=50, seed=3).content_hash() == every.content_hash()


def test_a_bad_mesh_is_named_with_archive_file_and_line(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("ModelNet2/tetra/test/tetra_0003.off", TETRAHEDRON.replace("3 1 2 3", "3 1 2 4"))
    with pytest.raises(InputError, match=r"ModelNet2.zip, ModelNet2/tetra/test/tetra_0003.off, line 10: .*not exist"):
        read_modelnet_meshes(archive, num_points=5)


def test_a_mesh_without_area_is_named(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("ModelNet2/tetra/test/flat.off", "OFF\n3 1 3\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n")
    with pytest.raises(InputError, match=r"flat.off: the mesh has no surface to sample"):
        read_modelnet_meshes(archive, num_points=5)


def test_other_archives_are_refused(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(DataError, match="expected sofa/train"):
        read_modelnet_meshes(archive, classes=("sofa",))
    (tmp_path / "junk.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="archive cannot be opened"):
        read_modelnet_meshes(tmp_path / "junk.zip")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as file:
        file.writestr("a.txt", "nothing")
    with pytest.raises(DataError, match="no ModelNet meshes"):
        read_modelnet_meshes(tmp_path / "none.zip")


def test_a_member_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Path) -> None:
    monkeypatch.setattr("geomol.data.cloud_archive.MAX_MEMBER", 20)
    with pytest.raises(SecurityError, match="unpacks beyond the limit"):
        read_modelnet_meshes(archive)


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOMOL_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="geomol data get modelnet40-meshes"):
        load_clouds("modelnet40-meshes")
    with pytest.raises(DataError, match=r"put modelnet10/modelnet10.npz into a data folder"):
        load_clouds("modelnet10")


def test_sampled_meshes_are_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Path) -> None:
    monkeypatch.setenv("GEOMOL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data" / "modelnet").mkdir(parents=True)
    (tmp_path / "data" / "modelnet" / "ModelNet10.zip").write_bytes(archive.read_bytes())
    made = load_clouds("modelnet10-meshes", num_points=40)
    kept = list((tmp_path / "cache" / "geomol" / "clouds").iterdir())
    assert len(kept) == 1
    assert load_clouds("modelnet10-meshes", num_points=40).content_hash() == made.content_hash()
    load_clouds("modelnet10-meshes", num_points=40, seed=1)
    assert len(list(kept[0].parent.iterdir())) == 2
