"""Models of labels asked about clouds without labels: scale, classes, parts of every point, tables."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from train.toy_clouds import MakeConfig, load, toy

from geomol.cli import main
from geomol.data import Clouds, write_clouds
from geomol.errors import InputError
from geomol.labels import LabelModel
from geomol.train import clouds_for, embed_clouds, label_parts, labels_of, parse_config, train
from geomol.train.label_ask import in_groups

PARTS = {"labels__level": "point", "labels__num_points": 40}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, module_config: MakeConfig) -> dict[str, Path]:
    """A trained model of classes, and one of parts; they learn from the same clouds."""
    with torch.random.fork_rng():
        classes = train(parse_config(module_config(name="classes")))
        parts = train(parse_config(module_config(name="parts", **PARTS)))
    return {"classes": classes.run_dir, "parts": parts.run_dir}


def unlabelled(clouds: Clouds) -> Clouds:
    return replace(clouds, label=None, part=None, class_names=(), part_names=(), class_parts=(), splits={})


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def save_scans(folder: Path, clouds: Clouds, scale: float = 30.0) -> Path:
    """A file of points each, in millimetres and far from the origin."""
    folder.mkdir()
    for row in range(len(clouds)):
        one = slice(int(clouds.ptr[row]), int(clouds.ptr[row + 1]))
        np.savetxt(folder / f"part{row:02d}.txt", clouds.pos[one] * scale + 1000)
    return folder


def test_the_reach_of_the_training_clouds_is_kept(runs: dict[str, Path], module_config: MakeConfig) -> None:
    model = load(runs["classes"])
    assert model.reach == float(np.median(label_parts(parse_config(module_config()))[0]["train"].reaches))
    assert 0.9 < model.reach < 1.1
    assert LabelModel.from_config(model.config).reach == model.reach
    older = {key: value for key, value in model.config.items() if key != "reach"}
    assert LabelModel.from_config(older).reach == 1.0


def test_scans_in_any_unit_are_asked_about_at_the_scale_of_training(runs: dict[str, Path], tmp_path: Path) -> None:
    model, test = load(runs["classes"]), toy("solids").split("test")
    scans = save_scans(tmp_path / "scans", test)
    clouds, found = labels_of(model, scans)
    assert found.shape == (len(test), 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    middle = np.repeat([test.pos[a:b].mean(axis=0) for a, b in pairwise(test.ptr)], test.sizes, axis=0)
    scaled = (test.pos - middle) * np.repeat(model.reach / test.reaches, test.sizes)[:, None]
    np.testing.assert_allclose(found, labels_of(model, replace(test, pos=scaled))[1], atol=1e-3)
    assert np.abs(found - labels_of(model, replace(test, pos=test.pos * 30))[1]).max() > 0.1
    out = tmp_path / "classes.csv"
    assert main(["predict", str(runs["classes"]), str(scans), "-o", str(out)]) == 0
    table = rows_of(out)
    assert [row["cloud"] for row in table] == list(clouds.names) == sorted(path.name for path in scans.iterdir())
    assert [row["class"] for row in table] == [model.names[k] for k in found.argmax(axis=1)]
    np.testing.assert_array_equal([[float(row[name]) for name in model.names] for row in table], found)


def test_labels_do_not_change_what_is_said(runs: dict[str, Path], tmp_path: Path) -> None:
    model, test = load(runs["classes"]), toy("solids").split("test")
    _, found = labels_of(model, test)
    _, blind = labels_of(model, unlabelled(test))
    np.testing.assert_array_equal(found, blind)
    other = replace(test, class_names=("cat", "dog"), class_parts=())
    np.testing.assert_array_equal(labels_of(model, other)[1], found)
    path = write_clouds(tmp_path / "clouds.npz", unlabelled(test))
    np.testing.assert_array_equal(labels_of(model, path)[1], found)
    assert main(["embed", str(runs["classes"]), str(path), "-o", str(tmp_path / "e.npz")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "e.npz")["features"], embed_clouds(model, test))


def test_clouds_of_another_scale_are_warned_of(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, test = load(runs["classes"]), unlabelled(toy("solids").split("test"))
    for factor, warned in ((1.0, 0), (1.5, 0), (30.0, 1), (0.1, 1)):
        caplog.clear()
        clouds_for(model, write_clouds(tmp_path / "c.npz", replace(test, pos=test.pos * factor)))
        assert len(caplog.records) == warned, factor
    assert "the model learned from clouds that reach" in caplog.text


def test_every_point_gets_its_part_in_groups_of_the_size_of_training(runs: dict[str, Path], tmp_path: Path) -> None:
    model, test = load(runs["parts"]), toy("solids", points=100).split("test")
    assert model.num_points == 40
    _, told = labels_of(model, test)
    assert told.shape == (len(test.pos), 4)
    np.testing.assert_allclose(told.sum(axis=1), 1)
    of_class = np.repeat(test.label, test.sizes)
    allowed = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)[of_class]
    assert (told[~allowed] == 0).all()
    assert (told.argmax(axis=1) == test.part).mean() > 0.8
    _, blind = labels_of(model, unlabelled(test))
    assert (blind[~allowed] > 0).any()
    out = tmp_path / "parts.csv"
    path = write_clouds(tmp_path / "c.npz", replace(unlabelled(test), names=tuple(f"c{k}" for k in range(len(test)))))
    assert main(["predict", str(runs["parts"]), str(path), "-o", str(out)]) == 0
    table = rows_of(out)
    assert len(table) == len(test.pos)
    np.testing.assert_allclose([[float(row[axis]) for axis in "xyz"] for row in table], test.pos, atol=1e-6)
    assert (table[103]["cloud"], table[103]["point"]) == ("c1", "3")
    assert [row["part"] for row in table] == [model.names[k] for k in blind.argmax(axis=1)]
    np.testing.assert_array_equal([float(row["probability"]) for row in table], blind.max(axis=1))


@pytest.mark.parametrize("kind", ["classes", "parts"])
def test_the_answer_for_a_cloud_is_its_own(runs: dict[str, Path], kind: str) -> None:
    model, test = load(runs[kind]), unlabelled(toy("solids", points=100).split("test"))
    _, every = labels_of(model, test)
    for row in (0, 3):
        _, alone = labels_of(model, test.subset([row]))
        beside = every[[row]] if kind == "classes" else every[test.ptr[row] : test.ptr[row + 1]]
        np.testing.assert_allclose(alone, beside, atol=1e-5)
        features = embed_clouds(model, test.subset([row]))
        np.testing.assert_allclose(features, embed_clouds(model, test)[[row]], atol=1e-4)


def test_points_that_are_there_twice_are_no_trouble(runs: dict[str, Path], module_config: MakeConfig) -> None:
    radial = {
        "name": "ponita",
        "orientations": "none",
        "kernel": "legendre",
        "channels": 8,
        "num_layers": 1,
        "cutoff": 2.5,
    }
    bessel = load(train(parse_config(module_config(name="bessel", model=radial, schedule__epochs=1))).run_dir)
    clouds = unlabelled(toy("solids", num=6))
    twice = replace(clouds, pos=clouds.pos.copy())
    twice.pos[clouds.ptr[:-1] + 5] = twice.pos[clouds.ptr[:-1]]
    for model in (bessel, load(runs["classes"])):
        _, found = labels_of(model, twice)
        near = replace(twice, pos=twice.pos.astype(np.float64))
        near.pos[clouds.ptr[:-1] + 5, 0] += 1e-5
        np.testing.assert_allclose(found, labels_of(model, near)[1], atol=1e-3)


def test_answers_that_are_no_numbers_name_their_cloud(runs: dict[str, Path]) -> None:
    model, clouds = load(runs["classes"]), unlabelled(toy("solids", num=6))
    with torch.no_grad():
        next(model.head.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="solids, cloud 0: the model has no finite answer"):
        labels_of(model, clouds)


def test_clouds_of_few_points_are_warned_of(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(runs["classes"])
    clouds_for(model, save_scans(tmp_path / "few", unlabelled(toy("solids", num=4, points=20))))
    assert (
        "4 of 4 clouds have fewer points than the 32 that the model learned from, the first: part00.txt" in caplog.text
    )


@pytest.mark.parametrize(("size", "groups"), [(None, [7, 20, 5]), (50, [7, 20, 5]), (7, [7, 7, 7, 7, 5]), (4, [4] * 9)])
def test_groups_are_full_and_hold_every_point_of_their_cloud(size: int | None, groups: list[int]) -> None:
    clouds = Clouds(name="c", pos=np.random.default_rng(0).normal(size=(32, 3)), ptr=np.array([0, 7, 27, 32]))
    grouped, rows = in_groups(clouds, size)
    assert grouped.sizes.tolist() == groups
    np.testing.assert_array_equal(grouped.pos, clouds.pos[rows])
    assert set(rows.tolist()) == set(range(32))
    owner = np.searchsorted(clouds.ptr, rows, side="right")
    for first, last in zip(grouped.ptr[:-1], grouped.ptr[1:], strict=True):
        assert len(set(owner[first:last])) == 1
        assert len(set(rows[first:last])) == last - first


def test_absent_normals_and_options_without_meaning_are_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, out = save_scans(tmp_path / "scans", toy("solids", num=6)), str(tmp_path / "t.csv")
    for words, message in (
        (["-o", str(scans / "t.csv")], "t.csv: the answers would lie among the data"),
        (["-o", str(tmp_path / "t.xyz")], "not written to such files, expected .csv"),
        (["-o", out, "--skip-bad"], "--units and --skip-bad are for structures"),
        (["-o", out, "--units", "kcal/mol"], "--units and --skip-bad are for structures"),
        (["-o", out, "--split", "test"], 'unknown split "test"'),
    ):
        assert main(["predict", str(runs["classes"]), str(scans), *words]) == 2
        assert message in capsys.readouterr().err
    model = load(runs["classes"])
    monkeypatch.setattr(model, "normals", "vectors")
    with pytest.raises(InputError, match=r"no normals.*pca_normals"):
        labels_of(model, scans)
