"""ShapeNet-Part: its table of parts, a small archive of its form, and what is wrong with damaged ones."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch_geometric.datasets import ShapeNet

from geomol.data import read_shapenet_part
from geomol.data.shapenet_part import CATEGORIES, CLASS_PARTS, PART_NAMES, SYNSETS
from geomol.errors import ConfigError, DataError, GeomolError, InputError

ROOT = "benchmark_normal/"
CHAIR, MUG = "03001627", "03797390"


def lines(parts: list[int], *, seed: int) -> str:
    random = np.random.default_rng(seed)
    rows = [[*random.normal(size=3), 0.0, 0.0, 1.0, float(part)] for part in parts]
    return "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in rows)


@pytest.fixture
def files() -> dict[str, str]:
    lists = {"train": [f"{MUG}/a", f"{CHAIR}/c"], "val": [f"{MUG}/b"], "test": [f"{CHAIR}/d"]}
    content = {
        f"{ROOT}train_test_split/shuffled_{key}_file_list.json": json.dumps([f"shape_data/{name}" for name in names])
        for key, names in lists.items()
    }
    content |= {
        f"{ROOT}{MUG}/a.txt": lines([36, 37, 37], seed=0),
        f"{ROOT}{MUG}/b.txt": lines([37], seed=1),
        f"{ROOT}{CHAIR}/c.txt": lines([12, 15, 13, 12], seed=2),
        f"{ROOT}{CHAIR}/d.txt": lines([14, 12], seed=3),
        f"{ROOT}{CHAIR}/unlisted.txt": "not read",
    }
    return content


@pytest.fixture
def written(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    def write(content: dict[str, str]) -> Path:
        path = tmp_path / "parts.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name, text in content.items():
                file.writestr(name, text)
        return path

    return write


def test_the_table_of_parts_is_that_of_torch_geometric() -> None:
    assert {category: synset for synset, (category, _) in SYNSETS.items()} == ShapeNet.category_ids
    assert {name: list(parts) for name, parts in zip(CATEGORIES, CLASS_PARTS, strict=True)} == ShapeNet.seg_classes
    assert len(PART_NAMES) == 50


def test_shapes_come_with_parts_classes_and_the_official_division(
    files: dict[str, str], written: Callable[[dict[str, str]], Path]
) -> None:
    clouds = read_shapenet_part(written(files))
    assert {key: rows.tolist() for key, rows in clouds.splits.items()} == {"train": [0, 1], "valid": [2], "test": [3]}
    assert [clouds.class_names[i] for i in clouds.label] == ["Mug", "Chair", "Mug", "Chair"]
    assert clouds.sizes.tolist() == [3, 4, 1, 2]
    assert clouds.part.tolist() == [36, 37, 37, 12, 15, 13, 12, 37, 14, 12]
    assert clouds.part_names[37] == "Mug 1"
    expected = np.array([line.split() for line in files[f"{ROOT}{CHAIR}/d.txt"].splitlines()], dtype=float)
    np.testing.assert_allclose(clouds.pos[8:], expected[:, :3], atol=1e-6)
    np.testing.assert_allclose(clouds.normals[8:], expected[:, 3:6], atol=1e-6)


def test_single_categories_can_be_read(files: dict[str, str], written: Callable[[dict[str, str]], Path]) -> None:
    clouds = read_shapenet_part(written(files), categories=("Chair",))
    assert clouds.label.tolist() == [4, 4]
    assert {key: rows.tolist() for key, rows in clouds.splits.items()} == {"train": [0], "valid": [], "test": [1]}
    with pytest.raises(ConfigError, match=r'no category "Chairs".*did you mean "Chair"'):
        read_shapenet_part(written(files), categories=("Chairs",))


@pytest.mark.parametrize(
    ("member", "content", "fault"),
    [
        (f"{MUG}/a.txt", "", "a.txt: the cloud is empty"),
        (f"{MUG}/a.txt", "0 0 0 0 0 1\n", "a.txt, line 1: wrong number of columns, expected 7"),
        (f"{MUG}/a.txt", "0 0 0 0 0 1 36\n0 0 nan 0 0 1 36\n", "a.txt, line 2: a value is not finite"),
        (f"{MUG}/a.txt", "0 0 0 0 0 1 36.5\n", "a.txt, line 1: a label is not a whole number"),
        (f"{MUG}/a.txt", "0 0 0 0 0 1 12\n", r"cloud 0: a part that no Mug has, expected \(36, 37\), got 12"),
        (f"{MUG}/a.txt", "0 0 0 0 0 1 50\n", "`part` has a value without a name"),
        (f"{MUG}/a.txt", None, f"lacks a file, expected .*{MUG}/a.txt"),
        ("train_test_split/shuffled_train_file_list.json", None, "not the ShapeNet-Part set"),
        ("train_test_split/shuffled_val_file_list.json", None, "lacks a file"),
        ("train_test_split/shuffled_val_file_list.json", "[1", "list of shapes cannot be read"),
        ("train_test_split/shuffled_val_file_list.json", "[1]", "no list of names"),
        ("train_test_split/shuffled_val_file_list.json", '["shape_data/0/a"]', "a shape that cannot be"),
        ("train_test_split/shuffled_val_file_list.json", f'["shape_data/{MUG}/.."]', "a shape that cannot be"),
    ],
)
def test_damage_is_named_with_file_and_line(
    files: dict[str, str],
    written: Callable[[dict[str, str]], Path],
    member: str,
    content: str | None,
    fault: str,
) -> None:
    if content is None:
        del files[ROOT + member]
    else:
        files[ROOT + member] = content
    with pytest.raises(GeomolError, match=fault) as caught:
        read_shapenet_part(written(files))
    assert isinstance(caught.value, InputError | DataError)
    assert "\n" not in str(caught.value)
