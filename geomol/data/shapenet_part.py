"""ShapeNet-Part: 16 categories of shapes with 50 part labels (Yi et al., ACM TOG 35, 210, 2016)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geomol.data.cloud_archive import CloudArchive
from geomol.data.cloud_text import parse_cloud
from geomol.data.clouds import Clouds, join_clouds
from geomol.errors import ConfigError, DataError, InputError, nearest

SYNSETS = {
    "02691156": ("Airplane", 4),
    "02773838": ("Bag", 2),
    "02954340": ("Cap", 2),
    "02958343": ("Car", 4),
    "03001627": ("Chair", 4),
    "03261776": ("Earphone", 3),
    "03467517": ("Guitar", 3),
    "03624134": ("Knife", 2),
    "03636649": ("Lamp", 4),
    "03642806": ("Laptop", 2),
    "03790512": ("Motorbike", 6),
    "03797390": ("Mug", 2),
    "03948459": ("Pistol", 3),
    "04099429": ("Rocket", 3),
    "04225987": ("Skateboard", 3),
    "04379243": ("Table", 3),
}
"""WordNet synset -> (category, number of its parts). Parts are numbered through in this order, 0 to 49."""

CATEGORIES = tuple(category for category, _ in SYNSETS.values())
_ENDS = np.cumsum([count for _, count in SYNSETS.values()]).tolist()
CLASS_PARTS = tuple(tuple(range(end - count, end)) for end, (_, count) in zip(_ENDS, SYNSETS.values(), strict=True))
PART_NAMES = tuple(f"{category} {k}" for category, count in SYNSETS.values() for k in range(count))
_LISTS = {"train": "train", "valid": "val", "test": "test"}
_COLUMNS = "x y z nx ny nz label"


def read_shapenet_part(path: str | Path, *, categories: Sequence[str] = (), name: str = "shapenet-part") -> Clouds:
    """The set with normals from its zip archive, or the folder unpacked from it.

    `<synset>/<shape>.txt` holds a point a line: x y z, normal, part (0 to 49). The official division is in
    `train_test_split/shuffled_{train,val,test}_file_list.json`; shapes that it does not list are left out, as in every
    published figure. Parts have no names in the source; here they are called "Airplane 0" and so on.

    Args:
        categories: which to read, e.g. ("Chair", "Lamp"); all 16 unless given.

    Raises:
        ConfigError: an unknown category. DataError: an archive without these files, or a listed shape missing.
        InputError: a wrong number of columns, values that are no numbers, a part that the category does not have.
    """
    for category in categories:
        if category not in CATEGORIES:
            raise ConfigError(f'no category "{category}" in ShapeNet-Part', remedy=nearest(category, CATEGORIES))
    pos, normals, part, label, rows = [], [], [], [], {key: [] for key in _LISTS}  # type: ignore[var-annotated]
    with CloudArchive(path) as archive:
        root = _root(archive)
        for split, listed in _LISTS.items():
            for synset, shape in _listed(archive, f"{root}train_test_split/shuffled_{listed}_file_list.json"):
                category, _ = SYNSETS[synset]
                if categories and category not in categories:
                    continue
                member = f"{root}{synset}/{shape}.txt"
                cloud = parse_cloud(archive.read(member).decode("latin-1"), _COLUMNS, where=f"{path}, {member}")
                assert cloud.normals is not None
                assert cloud.label is not None
                rows[split].append(len(pos))
                pos.append(cloud.pos)
                normals.append(cloud.normals)
                part.append(cloud.label)
                label.append(CATEGORIES.index(category))
    points, ptr, slopes = join_clouds(pos, name=f"{name}, {path}", normals=normals)
    return Clouds(
        name=name,
        pos=points,
        ptr=ptr,
        normals=slopes,
        part=np.concatenate(part),
        label=np.array(label),
        class_names=CATEGORIES,
        part_names=PART_NAMES,
        class_parts=CLASS_PARTS,
        splits={split: np.array(found, dtype=np.int64) for split, found in rows.items()},
        source=f"ShapeNet-Part with normals (Yi et al. 2016), {Path(path).name}, as distributed",
    )


def _root(archive: CloudArchive) -> str:
    """The folder inside the archive that holds the set, with a slash, or nothing."""
    tail = "train_test_split/shuffled_train_file_list.json"
    found = next((name for name in archive.names if name.endswith(tail)), None)
    if found is None:
        raise DataError("not the ShapeNet-Part set", where=str(archive.path), expected=f"a file {tail}")
    return found.removesuffix(tail)


def _listed(archive: CloudArchive, name: str) -> list[tuple[str, str]]:
    """(synset, shape) of a list of the official division."""
    where = f"{archive.path}, {name}"
    try:
        entries = json.loads(archive.read(name))
    except ValueError as error:
        raise InputError("the list of shapes cannot be read", where=where, got=str(error)[:80]) from None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise InputError("the list of shapes is no list of names", where=where)
    shapes = []
    for entry in entries:
        parts = entry.split("/")
        if len(parts) != 3 or parts[1] not in SYNSETS or parts[2] in ("", ".", ".."):
            raise InputError(
                "a shape that cannot be", where=where, expected="shape_data/<synset>/<name>", got=entry[:80]
            )
        shapes.append((parts[1], parts[2]))
    return shapes
