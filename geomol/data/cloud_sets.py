"""`load_clouds`: one way in for sets of point clouds, by name or from a file of our own."""

from __future__ import annotations

from pathlib import Path

from geomol.data.catalogue import refuse_kind, verify_sums
from geomol.data.cloud_files import cached_clouds, read_clouds
from geomol.data.cloud_scans import SCANS
from geomol.data.clouds import Clouds
from geomol.data.download import file_hash
from geomol.data.folders import data_folders
from geomol.data.made_parts import BENDS, make_parts
from geomol.data.modelnet import read_compact_modelnet10, read_modelnet_meshes
from geomol.data.shapenet_part import read_shapenet_part
from geomol.data.sources import SOURCES
from geomol.errors import DataError, nearest

CLOUD_SETS = ("modelnet10", "modelnet10-meshes", "modelnet40-meshes", "shapenet-part", *BENDS)
COMPACT = "modelnet10/modelnet10.npz"


def load_clouds(spec: str | Path, *, num_points: int = 1024, seed: int = 0, num: int = 2000) -> Clouds:
    """Point clouds with labels and splits.

    Args:
        spec: a name of `CLOUD_SETS`, or an .npz that `write_clouds` wrote.
            "modelnet10": 1024 surface voxels per shape, from `modelnet10/modelnet10.npz` of a data folder; jitter it.
            "modelnet10-meshes", "modelnet40-meshes": points on the meshes, which must have been downloaded; sampling
            takes minutes, once, and is kept in the user's cache.
            "shapenet-part": as distributed, 2616 points a shape on average; kept in the cache likewise.
            "made-parts": articulated objects, made now; "made-parts-near" with every joint in the middle half of its
            range, "made-parts-far" likewise but for the test part, whose joints are in the outer quarters.
        num_points: per cloud; not for "shapenet-part", whose clouds differ in size.
        seed: of their random points and proportions.
        num: how many objects are made.

    Raises:
        DataError: no such set on this machine, with how to get it. ConfigError: settings that the set does not have.
        InputError: damaged contents, with file and line.
    """
    if Path(spec).suffix.lower() == ".npz":
        if not Path(spec).is_file():
            raise DataError("no such file", where=str(spec))
        return read_clouds(spec)
    name = str(spec)
    if name not in CLOUD_SETS:
        refuse_kind(Path(name), expected=".npz; for predictions of trained models also " + " ".join(SCANS))
        raise DataError(f'no set of point clouds "{name}"', remedy=nearest(name, CLOUD_SETS))
    if name in BENDS:
        return make_parts(num, num_points=num_points, seed=seed, name=name, joints=BENDS[name])
    if name == "modelnet10":
        return read_compact_modelnet10(_locate(name, COMPACT), num_points=num_points)
    path = _locate(name, SOURCES[name].result)
    key = f"{name}-{file_hash(path)[:12]}"
    if name == "shapenet-part":
        return cached_clouds(key, lambda: read_shapenet_part(path))
    return cached_clouds(
        f"{key}-{num_points}-{seed}",
        lambda: read_modelnet_meshes(path, num_points=num_points, seed=seed, name=name),
    )


def _locate(name: str, file: str) -> Path:
    for _, folder in data_folders():
        if (path := folder / file).is_file():
            verify_sums(path)
            return path
    how = f"download it: geomol data get {name}" if name in SOURCES else f"put {file} into a data folder ($GEOMOL_DATA)"
    raise DataError(f'point clouds "{name}" are not on this machine', remedy=how)
