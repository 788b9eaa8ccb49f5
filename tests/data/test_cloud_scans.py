"""Meshes and points of one's own: read as they are, scaled as asked, refused with their line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geomol.data import Clouds, load_category, read_clouds, read_scans, write_clouds
from geomol.errors import DataError, InputError

TETRAHEDRON = "OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"


def points(num: int = 7, columns: int = 3, seed: int = 0) -> np.ndarray:
    table = np.random.default_rng(seed).normal(size=(num, columns))
    table[:, 3:] /= np.linalg.norm(table[:, 3:], axis=1, keepdims=True)
    return table


@pytest.mark.parametrize(("suffix", "separator"), [("txt", " "), ("pts", "\t"), ("csv", ","), ("txt", ",")])
@pytest.mark.parametrize("columns", [3, 6])
def test_points_are_centred_and_scaled_and_normals_stay(
    tmp_path: Path, suffix: str, separator: str, columns: int
) -> None:
    table, file = points(columns=columns), tmp_path / f"shape.{suffix}"
    np.savetxt(file, table, delimiter=separator)
    cloud = read_scans(file, reach=2.5)
    local = table[:, :3] - table[:, :3].mean(axis=0)
    expected = 2.5 * local / np.sqrt((local**2).sum(axis=1)).max()
    np.testing.assert_allclose(cloud.pos, expected, atol=1e-6)
    assert cloud.reaches == pytest.approx([2.5])
    assert cloud.names == (f"shape.{suffix}",)
    np.testing.assert_allclose(cloud.pos_in_source, table[:, :3], atol=1e-6)
    if columns == 3:
        assert cloud.normals is None
    else:
        np.testing.assert_allclose(cloud.normals, table[:, 3:], atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        b"x y z\n{}",
        b"X, Y, Z\r\n{}",
        b"# made by hand\n# x y z\n{}\n# the end\n\n",
        b"\xef\xbb\xbf{}",
    ],
)
def test_names_of_columns_comments_and_marks_are_no_points(tmp_path: Path, text: bytes) -> None:
    table, separator = points(), ", " if b"," in text else " "
    rows = "\n".join(separator.join(map(repr, row)) for row in table.tolist())
    (tmp_path / "plain.txt").write_text(rows)
    (tmp_path / "shape.txt").write_bytes(text.replace(b"{}", rows.encode()))
    np.testing.assert_array_equal(read_scans(tmp_path / "shape.txt").pos, read_scans(tmp_path / "plain.txt").pos)


def test_points_on_a_mesh_lie_on_its_faces_and_depend_on_nothing_else_that_is_read(tmp_path: Path) -> None:
    for name in ("a.off", "b.OFF"):
        (tmp_path / name).write_text(TETRAHEDRON)
    (tmp_path / "notes.md").write_text("not a cloud")
    both = read_scans(tmp_path, num_points=500)
    assert both.names == ("a.off", "b.OFF")
    assert both.sizes.tolist() == [500, 500]
    alone = read_scans(tmp_path / "b.OFF", num_points=500)
    np.testing.assert_array_equal(alone.pos, both.subset([1]).pos)
    assert not np.array_equal(both.subset([0]).pos, alone.pos)
    # outward normals of the four faces, and of each face one plane
    faces = {(0, 0, -1), (0, -1, 0), (-1, 0, 0), (1, 1, 1)}
    found = np.round(alone.normals / np.abs(alone.normals).max(axis=1, keepdims=True)).astype(int)
    assert {tuple(row) for row in found.tolist()} == faces
    for face in faces:
        rows = (found == face).all(axis=1)
        assert np.ptp((alone.pos[rows] * alone.normals[rows]).sum(axis=1)) < 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"bad.txt: the cloud is empty"),
        ("1 2\n", r"bad.txt, line 1: wrong number of columns, expected 3 .* or 6 .*got 2"),
        ("0 0 0\n1 2 3\n1 2\n", r"bad.txt, line 3: wrong number of columns"),
        ("0 0 0\n1 2 x\n", r"bad.txt, line 2: something else than numbers, got '1 2 x'"),
        ("# by hand\nx y z\n0 0 0\n1 2\n", r"bad.txt, line 4: wrong number of columns"),
        ("# by hand\n\n0 0\n", r"bad.txt, line 3: wrong number of columns"),
        ("0 0 0\nx y z\n1 2 3\n", r"bad.txt, line 2: something else"),
        ("0 0 0\n1 2 nan\n", r"bad.txt, line 2: a value is not finite"),
        ("1 2 3\n1 2 3\n", r"bad.txt: a cloud without extent.*points apart"),
        ("1 2 3\n", r"bad.txt: a cloud without extent, .*got 1 points"),
    ],
)
def test_what_cannot_be_a_cloud_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_scans(tmp_path / "bad.txt")


def test_normals_are_of_unit_length_or_absent(tmp_path: Path) -> None:
    table, file = points(columns=6), tmp_path / "shape.txt"
    table[2, 3:] = 0
    np.savetxt(file, np.round(table, 2))
    normals = read_scans(file).normals
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), [1, 1, 0, 1, 1, 1, 1], atol=1e-6)
    np.savetxt(file, np.c_[table[:, :3], np.arange(21).reshape(7, 3)])
    with pytest.raises(InputError, match=r"shape\.txt, point 0: columns 4 to 6 are no normals.*leave colours out"):
        read_scans(file)


def test_folders_need_clouds_and_normals_of_all_or_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no clouds in this folder, expected \.off"):
        read_scans(tmp_path)
    with pytest.raises(DataError, match=r"absent\.off: the file cannot be opened"):
        read_scans(tmp_path / "absent.off")
    np.savetxt(tmp_path / "a.txt", points(columns=6))
    np.savetxt(tmp_path / "b.txt", points())
    with pytest.raises(InputError, match=r"b\.txt: some files have normals"):
        read_scans(tmp_path)
    (tmp_path / "b.txt").write_text("1 1\n")
    with pytest.raises(InputError, match=r"b\.txt, line 1"):
        read_scans(tmp_path)


def test_names_go_with_their_clouds_through_choices_and_files(tmp_path: Path) -> None:
    clouds = Clouds(name="three", pos=points(6), ptr=np.array([0, 1, 3, 6]), names=("x", "y", "z"))
    chosen = clouds.subset([2, 0])
    assert chosen.names == ("z", "x")
    assert read_clouds(write_clouds(tmp_path / "c.npz", chosen)).names == ("z", "x")
    assert clouds.content_hash() == Clouds(name="three", pos=clouds.pos, ptr=clouds.ptr).content_hash()
    with pytest.raises(InputError, match="2 names of 3 clouds"):
        Clouds(name="three", pos=clouds.pos, ptr=clouds.ptr, names=("x", "y"))
    with pytest.raises(InputError, match="three, cloud y"):
        Clouds(name="three", pos=np.where(np.arange(18).reshape(6, 3) == 4, np.nan, 0), ptr=clouds.ptr, names="xyz")


def test_reach_is_that_of_the_farthest_point() -> None:
    clouds = Clouds(name="two", pos=[[0, 0, 0], [2, 0, 0], [5, 5, 5], [5, 5, 9], [5, 8, 7]], ptr=np.array([0, 2, 5]))
    middle = np.array([5, 6, 7])
    assert clouds.reaches == pytest.approx([1.0, np.linalg.norm(np.array([5, 5, 9]) - middle)])


def test_files_that_are_no_sets_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "scan.ply").write_text("ply")
    with pytest.raises(DataError, match=r"scan\.ply: this kind of file is not read.*\.npz.*\.off"):
        load_category(tmp_path / "scan.ply")
