"""ModelNet10 and ModelNet40: the compact voxel form of ModelNet10, and the meshes of both, sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geomol.data.cloud_archive import CloudArchive
from geomol.data.cloud_scans import sampled_mesh, scaled_cloud
from geomol.data.clouds import Clouds, join_clouds
from geomol.data.npz_file import NpzFile
from geomol.data.off import parse_off
from geomol.errors import ConfigError, DataError, InputError

MODELNET10 = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
GRID = 30
VOXELS_KEPT = 1024  # per shape
VOXEL_JITTER = 1 / GRID  # half a voxel in coordinates from −1 to 1
PARTS = ("train", "test")


def read_compact_modelnet10(
    path: str | Path, *, num_points: int = VOXELS_KEPT, jitter_seed: int | None = None
) -> Clouds:
    """ModelNet10 as 1024 surface voxels of a 30³ grid per shape, coordinates in (−1, 1), third axis up.

    The grids that are empty in the source (7 of training, 1 of test) are left out: 3984 and 907 remain. Points sit at
    the centres of voxels, with repeats where a shape has fewer than 1024; normals are approximate, from a smoothed
    occupancy, and 0 for the 0.2 % of points where it has no slope. Figures on this set compare variants with each
    other, not with papers, which sample the meshes.

    Args:
        num_points: take the first so many of the 1024, which are in random order.
        jitter_seed: move each point within its voxel (±1/30), once and for all, by this seed. For training draw anew
            at each step instead: `uniform_jitter(batch, VOXEL_JITTER, ...)`.

    Raises:
        InputError: another file than this, or a damaged one. ConfigError: more points than the file has.
    """
    if isinstance(num_points, bool) or not 1 <= num_points <= VOXELS_KEPT:
        expected = f"1 to {VOXELS_KEPT}"
        raise ConfigError("points per shape out of range", where=str(path), expected=expected, got=repr(num_points))
    file = NpzFile(path)
    pos, normals, label, counts = [], [], [], []
    for part in PARTS:
        drawn, slope, kinds, surface = _compact_part(file, part)
        kept, drawn, slope = surface > 0, drawn[:, :num_points], slope[:, :num_points]
        pos.append((drawn[kept] + np.float32(0.5)) / np.float32(GRID) * 2 - 1)
        length = np.linalg.norm(slope[kept], axis=-1, keepdims=True)
        normals.append(slope[kept] / np.where(length > 0, length, 1))
        label.append(kinds[kept])
        counts.append(int(kept.sum()))
    points = np.concatenate(pos).reshape(-1, 3)
    if jitter_seed is not None:
        width = VOXEL_JITTER
        points = points + np.random.default_rng(jitter_seed).uniform(-width, width, points.shape)
    per_cloud = pos[0].shape[1]
    total = sum(counts)
    return Clouds(
        name="modelnet10",
        pos=points,
        ptr=np.arange(total + 1) * per_cloud,
        normals=np.concatenate(normals).reshape(-1, 3),
        label=np.concatenate(label),
        class_names=MODELNET10,
        splits={"train": np.arange(counts[0]), "test": np.arange(counts[0], total)},
        source=f"ModelNet10 (Wu et al., CVPR 2015) as 30³ voxels, {path}; coordinates −1 to 1",
    )


def _compact_part(file: NpzFile, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    points, slope = file.read(f"points_{part}"), file.read(f"normals_{part}").astype(np.float32)
    kinds, surface = file.read(f"label_{part}").astype(np.int64), file.read(f"n_surface_{part}")
    right = points.ndim == 3 and points.shape[2] == 3 and slope.shape == points.shape
    if not right or kinds.shape != points.shape[:1] or surface.shape != points.shape[:1]:
        got = f"{points.shape}, {slope.shape}, {kinds.shape} and {surface.shape}"
        expected = "points and normals (S, n, 3), label and n_surface (S,)"
        raise InputError(f"arrays of {part} do not fit together", where=str(file.path), expected=expected, got=got)
    if points.size and (points.dtype.kind not in "iu" or points.min() < 0 or points.max() >= GRID):
        got = f"{points.dtype} up to {points.max()}"
        raise InputError(f"points_{part} are no voxels", where=str(file.path), expected=f"0 to {GRID - 1}", got=got)
    return points.astype(np.float32), slope, kinds, surface


def read_modelnet_meshes(
    path: str | Path, *, num_points: int = 1024, seed: int = 0, name: str = "modelnet", classes: tuple[str, ...] = ()
) -> Clouds:
    """Points and normals on the meshes of a ModelNet archive (`…/<class>/{train,test}/*.off`, zip or folder).

    Each mesh is sampled by area, by a generator seeded with `seed` and its own name, so that no cloud depends on which
    others are read. Then it is centred on its mean and scaled into the unit sphere, as usual. The sign of the normals
    is that of the triangles, which many of these meshes wind inconsistently: use the line through them, or
    `geomol.geometry.pca_normals`.

    Args:
        classes: which to read; all of the archive unless given.

    Raises:
        DataError: not an archive with such files. InputError: a mesh that cannot be read, with its name and line.
    """
    pos, normals, label, split = [], [], [], []
    with CloudArchive(path) as archive:
        found = [(member, parts) for member, parts in archive.ending(".off") if len(parts) >= 3 and parts[-2] in PARTS]
        known = sorted({parts[-3] for _, parts in found})
        names = tuple(classes) or tuple(known)
        if not found or not set(names) <= set(known):
            missing = sorted(set(names) - set(known))
            expected = f"{missing[0]}/train/*.off" if missing else "<class>/train/*.off and <class>/test/*.off"
            raise DataError("no ModelNet meshes here", where=str(path), expected=expected)
        for member, parts in found:
            if parts[-3] not in names:
                continue
            where = f"{path}, {member}"
            mesh = parse_off(archive.read(member), where=where)
            points, slopes = sampled_mesh(mesh, num_points, key=f"{seed}/{'/'.join(parts[-3:])}", where=where)
            pos.append(scaled_cloud(points, where=where)[0])
            normals.append(slopes)
            label.append(names.index(parts[-3]))
            split.append(parts[-2])
    every, ptr, every_normal = join_clouds(pos, name=name, normals=normals)
    return Clouds(
        name=name,
        pos=every,
        ptr=ptr,
        normals=every_normal,
        label=np.array(label),
        class_names=names,
        splits={part: np.flatnonzero(np.array(split) == part) for part in PARTS},
        source=f"ModelNet (Wu et al., CVPR 2015), {Path(path).name}; {num_points} points by area, seed {seed}",
    )
