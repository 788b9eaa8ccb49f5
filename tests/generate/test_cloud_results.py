"""Files of generated clouds, and the references that they are held against."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from geomol.data import Clouds, read_clouds
from geomol.errors import ConfigError, InputError
from geomol.generate.cloud_reference import common_size, comparable
from geomol.generate.cloud_results import check_cloud_output, save_clouds, to_clouds
from geomol.generate.request import Request
from geomol.generate.sampling import Sample
from geomol.report.cloud_gallery import cloud_figure, save_cloud_figure

RNG = np.random.default_rng(0)


def made(num: int = 3, points: int = 5) -> Clouds:
    samples = [Sample(Request(points, i), np.zeros(points, int), RNG.normal(size=(points, 3))) for i in range(num)]
    return to_clouds(samples)


def test_an_npz_reads_back_as_the_set_it_was(tmp_path: Path) -> None:
    clouds = made()
    assert save_clouds(tmp_path / "clouds.npz", clouds) == [tmp_path / "clouds.npz"]
    assert read_clouds(tmp_path / "clouds.npz").content_hash() == clouds.content_hash()


def test_an_xyz_holds_a_frame_for_each_cloud_that_ase_reads(tmp_path: Path) -> None:
    clouds = made()
    save_clouds(tmp_path / "clouds.xyz", clouds)
    frames = ase.io.read(tmp_path / "clouds.xyz", index=":")
    assert [set(frame.symbols) for frame in frames] == 3 * [{"X"}]
    np.testing.assert_allclose(np.concatenate([f.positions for f in frames]), clouds.pos, atol=1e-6)


def test_a_ply_holds_the_points_of_one_cloud_in_float32(tmp_path: Path) -> None:
    clouds = made()
    files = save_clouds(tmp_path / "clouds.ply", clouds)
    assert [file.name for file in files] == ["clouds-0000.ply", "clouds-0001.ply", "clouds-0002.ply"]
    head, _, body = files[1].read_bytes().partition(b"end_header\n")
    assert b"element vertex 5\n" in head
    np.testing.assert_array_equal(np.frombuffer(body, "<f4").reshape(-1, 3), clouds.pos[5:10])


def test_other_kinds_of_files_are_refused() -> None:
    with pytest.raises(ConfigError, match="not written to such files"):
        check_cloud_output(Path("clouds.obj"))


def voxels(num: int = 4, points: int = 10) -> Clouds:
    return Clouds(name="modelnet10/made", pos=RNG.normal(size=(num * points, 3)), ptr=np.arange(num + 1) * points)


def test_references_are_centred_different_clouds_of_as_many_points_as_wanted() -> None:
    found = comparable(voxels(), num=3, num_points=25, seed=1)
    assert [cloud.shape for cloud in found] == 3 * [(25, 3)]
    assert max(abs(cloud.mean(0)).max() for cloud in found) < 1e-12
    # points of voxels may come twice, each anywhere in its voxel
    assert len(np.unique(found[0], axis=0)) == 25
    spread = [np.sort(cloud.std(0)).round(2).tolist() for cloud in found]
    assert spread[0] != spread[1] != spread[2]


def test_references_in_random_poses_keep_their_shape_and_lose_their_axes() -> None:
    clouds = voxels()
    still, turned = (comparable(clouds, num=4, num_points=10, rotation=group) for group in ("none", "so3"))
    for a, b in zip(still, turned, strict=True):
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
        assert abs(a - b).max() > 0.1


def test_more_clouds_or_points_than_there_are_are_refused() -> None:
    clouds = Clouds(name="surface", pos=RNG.normal(size=(20, 3)), ptr=np.array([0, 12, 20]))
    with pytest.raises(ConfigError, match="as many clouds are not to be had"):
        comparable(clouds, num=3, num_points=5)
    with pytest.raises(ConfigError, match="cloud 1 has fewer points"):
        comparable(clouds, num=2, num_points=9)
    with pytest.raises(InputError, match="clouds of different sizes"):
        common_size(clouds)


def test_a_picture_shows_every_cloud_in_its_own_cell(tmp_path: Path) -> None:
    clouds = [RNG.normal(size=(7, 3)) for _ in range(5)]
    figure = cloud_figure({"data": clouds[:2], "generated": clouds}, columns=3)
    assert len(figure.axes) == 7
    assert [text.get_text() for text in figure.texts] == ["data", "generated"]
    save_cloud_figure(tmp_path / "clouds.png", {"": clouds})
    assert (tmp_path / "clouds.png").stat().st_size > 1000
    with pytest.raises(InputError, match="no clouds"):
        cloud_figure({"": []})


def test_what_is_drawn_follows_the_seed() -> None:
    clouds = voxels()
    a, b, c = (comparable(clouds, num=2, num_points=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.tensor(np.stack(a)), torch.tensor(np.stack(b)))
    assert not np.array_equal(a, c)
