"""Meshes and points of one's own, as clouds that a trained model can be asked about."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from geomol.data.cloud_text import parse_cloud
from geomol.data.clouds import Clouds, join_clouds
from geomol.data.off import parse_off, read_bytes
from geomol.errors import DataError, InputError
from geomol.geometry import Mesh, sample_surface

SCANS = (".off", ".txt", ".pts", ".csv")
_COLUMNS = {3: "x y z", 6: "x y z nx ny nz"}
_ROUNDED = 0.05  # of the length of a normal, as files of two digits have it
_HEADS = [columns.split() for columns in _COLUMNS.values()]


def is_scan(source: str | Path) -> bool:
    """Whether this names a file of `SCANS`, or a folder."""
    return bool(str(source)) and (Path(source).suffix.lower() in SCANS or Path(source).is_dir())


def read_scans(path: str | Path, *, num_points: int = 1024, seed: int = 0, reach: float = 1.0) -> Clouds:
    """A mesh (.off) or points (.txt, .pts, .csv: `x y z` or `x y z nx ny nz` a line, after names of columns
    and among comments with #), or all such files of a folder.

    Each becomes a cloud that bears the name of its file, is centred on the mean of its points and scaled so that the
    farthest is at `reach`, as the usual sets are. Meshes are sampled by area, by a generator seeded with `seed` and the
    name; the sign of their normals is that of the triangles.

    Args:
        num_points: on each mesh. Of files of points all are read.
        reach: distance of the farthest point from the mean.

    Raises:
        DataError: no such file, or a folder without any. InputError: a file that cannot be read, with its line; all
            points in one place; normals in some files only.
    """
    root = Path(path)
    files = [file for file in sorted(root.iterdir()) if file.suffix.lower() in SCANS] if root.is_dir() else [root]
    if not files:
        raise DataError("no clouds in this folder", where=str(root), expected=" ".join(SCANS))
    read = [_read(file, num_points, seed) for file in files]
    with_normals = [normals is not None for _, normals in read]
    if any(with_normals) and not all(with_normals):
        raise InputError(
            "some files have normals and others have not",
            where=str(files[with_normals.index(False)]),
            expected="normals in all of them, or in none",
            remedy="ask about meshes and points without normals one by one, or estimate normals (geomol.geometry)",
        )
    scaled = [scaled_cloud(points, reach, where=str(file)) for file, (points, _) in zip(files, read, strict=True)]
    slopes = [normals for _, normals in read if normals is not None]
    points, ptr, normals = join_clouds([pos for pos, _, _ in scaled], name=str(path), normals=slopes or None)
    return Clouds(
        name=str(root.absolute()),  # no set's name, whatever the folder is called
        pos=points,
        ptr=ptr,
        normals=normals,
        names=tuple(file.name for file in files),
        centre=np.stack([centre for _, centre, _ in scaled]),
        factor=np.array([factor for _, _, factor in scaled]),
        source=f"{path}; centred, farthest point at {reach:g}",
    )


def sampled_mesh(mesh: Mesh, num_points: int, *, key: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Points on a mesh, and normals, by a generator seeded with `key`, whatever else is read.

    Raises:
        InputError: a mesh without a surface.
    """
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    try:
        sample = sample_surface(mesh, num_points, generator=generator)
    except InputError as error:
        raise error.within(where) from None
    return sample.points.numpy(), sample.normals.numpy()


def _read(file: Path, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Points and, where there are any, normals."""
    content = read_bytes(file)
    if file.suffix.lower() == ".off":
        mesh = parse_off(content, where=str(file))
        return sampled_mesh(mesh, num_points, key=f"{seed}/{file.name}", where=str(file))
    lines = _without_heads(content.decode("utf-8-sig", errors="replace").splitlines())
    first = next((line for line in lines if line), "")
    separator = "," if "," in first else None
    width = len(first.split(separator))
    if first and width not in _COLUMNS:
        expected = " or ".join(f"{number} ({columns})" for number, columns in _COLUMNS.items())
        where = f"{file}, line {lines.index(first) + 1}"
        raise InputError("wrong number of columns", where=where, expected=expected, got=str(width))
    cloud = parse_cloud("\n".join(lines), _COLUMNS.get(width, "x y z"), where=str(file), separator=separator)
    return cloud.pos, None if cloud.normals is None else _unit(cloud.normals, str(file))


def _unit(normals: np.ndarray, where: str) -> np.ndarray:
    """Normals of length 1, or 0 where there is none.

    Raises:
        InputError: lengths that are neither, as of colours.
    """
    with np.errstate(over="ignore"):
        length = np.linalg.norm(normals, axis=1)
    wrong = np.flatnonzero((np.abs(length - 1) > _ROUNDED) & (length > 0))
    if len(wrong):
        raise InputError(
            "columns 4 to 6 are no normals",
            where=f"{where}, point {wrong[0]}",
            expected="unit vectors",
            got=f"length {length[wrong[0]]:.4g}",
            remedy="leave colours out; give normals the length 1",
        )
    return np.asarray(normals / np.where(length > 0, length, 1)[:, None])


def _without_heads(lines: list[str]) -> list[str]:
    """Empty lines for comments and for names of columns at the top, so that all others keep their numbers."""
    kept = ["" if line.lstrip().startswith("#") else line.strip() for line in lines]
    top = next((row for row, line in enumerate(kept) if line), None)
    if top is not None and kept[top].replace(",", " ").lower().split() in _HEADS:
        kept[top] = ""
    return kept


def scaled_cloud(points: np.ndarray, reach: float = 1.0, *, where: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Points (N, 3) about their mean, the farthest at `reach`; that mean, and the factor.

    Raises:
        InputError: all of them in one place.
    """
    centre = points.mean(axis=0)
    local = points - centre
    with np.errstate(over="ignore"):
        farthest = np.linalg.norm(local, axis=1).max()
    if not 0 < farthest < np.inf:
        got = f"{len(points)} points, the farthest {farthest:g} from their mean"
        raise InputError("a cloud without extent", where=where, expected="points apart from each other", got=got)
    return local * (reach / farthest), centre, float(reach / farthest)
