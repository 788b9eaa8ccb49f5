"""The record of point clouds: its checks, choice of rows and points, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geomol.data import Clouds, load_clouds, parse_cloud, read_clouds, write_clouds
from geomol.errors import ConfigError, DataError, GeomolError, InputError


def three(**changes: object) -> Clouds:
    """Clouds of 4, 1 and 3 points."""
    random = np.random.default_rng(0)
    normals = random.normal(size=(8, 3))
    fields: dict[str, object] = {
        "name": "three",
        "pos": random.normal(size=(8, 3)),
        "normals": normals / np.linalg.norm(normals, axis=1, keepdims=True),
        "ptr": [0, 4, 5, 8],
        "label": [0, 1, 0],
        "part": [0, 1, 0, 1, 2, 0, 0, 1],
        "class_names": ("cup", "spoon"),
        "part_names": ("bowl", "handle", "all"),
        "class_parts": ((0, 1), (2,)),
        "splits": {"train": np.array([2, 0]), "test": np.array([1])},
    }
    return Clouds(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_subset_has_the_points_and_labels_of_its_rows() -> None:
    clouds = three()
    chosen = clouds.subset([2, 0])
    np.testing.assert_array_equal(chosen.pos, np.concatenate([clouds.pos[5:8], clouds.pos[:4]]))
    np.testing.assert_array_equal(chosen.part, [0, 0, 1, 0, 1, 0, 1])
    assert (chosen.ptr.tolist(), chosen.label.tolist(), chosen.splits) == ([0, 3, 7], [0, 0], {})
    assert clouds.split("train").content_hash() == chosen.content_hash()
    assert clouds.content_hash() != chosen.content_hash()
    assert len(clouds.subset(np.array([True, False, True]))) == 2
    with pytest.raises(ConfigError, match="row number outside"):
        clouds.subset([3])
    with pytest.raises(ConfigError, match='unknown split "tests"'):
        clouds.split("tests")


def test_a_batch_is_the_subset_as_tensors() -> None:
    clouds = three()
    batch = clouds.batch([2, 0], dtype=torch.float64)
    chosen = clouds.subset([2, 0])
    np.testing.assert_array_equal(batch.pos.numpy(), chosen.pos)
    assert batch.batch.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert torch.equal(batch.frame, torch.eye(3, dtype=torch.float64).repeat(2, 1, 1))


def test_points_are_taken_from_the_front_or_at_random_but_never_twice() -> None:
    clouds = three()
    batch = clouds.batch([0, 1, 2], num_points=3)
    assert batch.ptr.tolist() == [0, 3, 4, 7]
    np.testing.assert_array_equal(batch.pos.numpy(), clouds.pos[[0, 1, 2, 4, 5, 6, 7]])
    seen = set()
    for seed in range(20):
        drawn = clouds.batch([0], num_points=3, generator=torch.Generator().manual_seed(seed))
        rows = [int(np.flatnonzero((clouds.pos == point).all(1))[0]) for point in drawn.pos.numpy()]
        assert len(set(rows)) == 3
        assert drawn.part is not None
        assert drawn.part.tolist() == [clouds.part[row] for row in rows]
        seen.add(tuple(rows))
    assert len(seen) == 4
    with pytest.raises(ConfigError, match="not a count"):
        clouds.batch([0], num_points=0)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"pos": np.zeros((8, 2))}, r"`pos` has the wrong shape, expected \(8, 3\), got \(8, 2\)"),
        ({"pos": np.zeros((7, 3))}, "`pos` has the wrong shape"),
        ({"ptr": [0, 4, 4, 8]}, "cloud 1: the cloud is empty"),
        ({"ptr": [1, 4, 5, 8]}, "row pointers"),
        ({"label": [0, 1]}, "`label` has the wrong shape"),
        ({"label": [0, 2, 0]}, "`label` has a value without a name, expected 0 to 1, got 2"),
        ({"label": [0, -1, 0]}, "`label` has a value without a name"),
        ({"part": [0] * 7}, "`part` has the wrong shape"),
        ({"part": [0, 1, 0, 1, 2, 0, 0, 3]}, "`part` has a value without a name"),
        ({"part": [0, 1, 0, 1, 2, 0, 0, 2]}, r"cloud 2: a part that no cup has, expected \(0, 1\), got 2"),
        ({"class_parts": ((0, 1),)}, "not every class says"),
        ({"normals": np.full((8, 3), np.nan)}, "cloud 0: `normals` of point 0 is not finite"),
    ],
)
def test_arrays_that_cannot_be_are_named(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        three(**changes)


def test_a_point_that_is_no_number_is_named_with_its_cloud() -> None:
    pos = three().pos.copy()
    pos[6, 1] = np.inf
    with pytest.raises(InputError, match="three, cloud 2: `pos` of point 1 is not finite"):
        three(pos=pos)


def test_a_file_gives_back_the_same_bits(tmp_path: Path) -> None:
    for clouds in (three(), three(normals=None, part=None, label=None, class_names=(), part_names=(), class_parts=())):
        read = load_clouds(write_clouds(tmp_path / "a.npz", clouds))
        assert read.content_hash() == clouds.content_hash()
        assert (read.name, read.source, read.class_parts) == (clouds.name, clouds.source, clouds.class_parts)
        assert {k: v.tolist() for k, v in read.splits.items()} == {k: v.tolist() for k, v in clouds.splits.items()}
        assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="not a file of point clouds"):
        read_clouds(tmp_path / "b.npz")
    write_clouds(tmp_path / "c.npz", three(splits={"train": np.array([7])}))
    with pytest.raises(ConfigError, match="exceed the data"):
        read_clouds(tmp_path / "c.npz")
    content = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(GeomolError, match="not a readable npz"):
        read_clouds(tmp_path / "d.npz")
    with pytest.raises(DataError, match="no such file"):
        load_clouds(tmp_path / "e.npz")
    with pytest.raises(DataError, match='no set of point clouds "modelnet"; did you mean "modelnet10"'):
        load_clouds("modelnet")


@pytest.mark.parametrize(
    ("text", "columns", "fault"),
    [
        ("\n \n", "x y z", "the cloud is empty"),
        ("0 0 0\n1 1\n", "x y z", r"line 2: wrong number of columns, expected 3 \(x y z\), got 2"),
        ("0 0 0 0 0 1\n", "x y z nx ny nz label", "wrong number of columns, expected 7"),
        ("0 0 zero\n", "x y z", "something else than numbers"),
        ("0 0 0\n\n0 nan 0\n", "x y z", "line 3: a value is not finite, got 0 nan 0"),
        ("0 0 0 1.5\n", "x y z label", "line 1: a label is not a whole number, got 1.5"),
    ],
)
def test_text_that_is_no_cloud_is_named_with_its_line(text: str, columns: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        parse_cloud(text, columns, where="a.txt")


def test_text_is_read_by_its_columns() -> None:
    cloud = parse_cloud("0,1,2,0,0,1,3.0\n\n4,5,6,1,0,0,1\n", "x y z nx ny nz label", where="a.txt", separator=",")
    assert cloud.pos.tolist() == [[0, 1, 2], [4, 5, 6]]
    assert cloud.normals is not None
    assert cloud.normals.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert cloud.label is not None
    assert cloud.label.tolist() == [3, 1]
    with pytest.raises(ConfigError, match="unknown columns"):
        parse_cloud("0 0 0\n", "x y", where="a.txt")
