"""Sets of point clouds and their labels in flat arrays, and batches of them as tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError, InputError, nearest

Rows = np.ndarray | Sequence[int] | slice

_DTYPES = {"pos": np.float32, "normals": np.float32, "ptr": np.int64, "label": np.int64, "part": np.int64}


@dataclass(frozen=True, eq=False)
class CloudBatch:
    """G clouds of N points in all, as tensors.

    Attributes:
        pos: positions.
        ptr: first point of each cloud, and the number of points at the end.
        normals: outward unit normals, where the source has them.
        label: class of each cloud. `part`: part of each point.
        frame: rotation from the pose of the source to the present one; its columns are the axes of the source's frame,
            which a network may be told (pose conditioning).
    """

    pos: Float[Tensor, "N 3"]
    ptr: Int[Tensor, " P"]
    normals: Float[Tensor, "N 3"] | None
    label: Int[Tensor, " G"] | None
    part: Int[Tensor, " N"] | None
    frame: Float[Tensor, "G 3 3"]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def batch(self) -> Int[Tensor, " N"]:
        """The cloud of each point."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.ptr.device), self.ptr.diff())

    def to(self, device: torch.device | str | None) -> CloudBatch:
        """The batch on another device."""
        moved = {k: v.to(device) for k, v in self.__dict__.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Clouds:
    """S point clouds of A points in all; points of cloud i are rows `ptr[i]:ptr[i + 1]`.

    Raises:
        InputError: arrays of the wrong shape, empty clouds, values that are no numbers, labels without a name, names of
            other clouds than there are.
    """

    # Checked and converted below rather than by annotation, since arrays of any shape arrive here from files.
    name: str
    pos: np.ndarray  # (A, 3) float32
    ptr: np.ndarray  # (S + 1,) int64
    normals: np.ndarray | None = None  # (A, 3) float32, unit length, or zero where the source knows none
    label: np.ndarray | None = None  # (S,) int64, row of `class_names`
    part: np.ndarray | None = None  # (A,) int64, row of `part_names`
    class_names: tuple[str, ...] = ()
    part_names: tuple[str, ...] = ()
    class_parts: tuple[tuple[int, ...], ...] = ()  # parts that a cloud of each class may have; empty: any
    splits: dict[str, np.ndarray] = field(default_factory=dict)  # row numbers by name
    source: str = ""  # where it is from
    names: tuple[str, ...] = ()  # of the clouds, such as those of their files; empty: their numbers
    centre: np.ndarray | None = None  # (S, 3) float64, where each was in its source; None: where it is
    factor: np.ndarray | None = None  # (S,) float64, by which each has been scaled about its centre since

    def __post_init__(self) -> None:
        for key, dtype in _DTYPES.items():
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, np.ascontiguousarray(value, dtype=dtype))
        self._check_shapes()
        for key in ("pos", "normals"):
            value = getattr(self, key)
            if value is not None and not np.isfinite(value).all():
                row = int(np.flatnonzero(~np.isfinite(value).all(axis=1))[0])
                cloud = int(np.searchsorted(self.ptr, row, side="right")) - 1
                got = str(value[row].tolist())
                raise InputError(
                    f"`{key}` of point {row - self.ptr[cloud]} is not finite", where=self._at(cloud), got=got
                )
        self._check_labels("label", self.class_names)
        self._check_labels("part", self.part_names)
        self._check_class_parts()

    def _at(self, cloud: int) -> str:
        return f"{self.name}, cloud {self.names[cloud] if self.names else cloud}"

    def _check_shapes(self) -> None:
        if self.ptr.ndim != 1 or not len(self.ptr) or self.ptr[0] != 0:
            raise InputError("`ptr` must be ascending row pointers from 0", where=self.name, got=str(self.ptr.shape))
        if (np.diff(self.ptr) < 1).any():
            empty = int(np.argmin(np.diff(self.ptr)))
            raise InputError("the cloud is empty", where=self._at(empty), expected="at least one point")
        points, clouds = int(self.ptr[-1]), len(self.ptr) - 1
        if self.names and len(self.names) != clouds:
            got = f"{len(self.names)} names of {clouds} clouds"
            raise InputError("`names` do not fit the clouds", where=self.name, expected="one each, or none", got=got)
        expected = {"pos": (points, 3), "normals": (points, 3), "label": (clouds,), "part": (points,)}
        expected |= {"centre": (clouds, 3), "factor": (clouds,)}
        for key, shape in expected.items():
            value = getattr(self, key)
            if value is not None and value.shape != shape:
                raise InputError(
                    f"`{key}` has the wrong shape", where=self.name, expected=str(shape), got=str(value.shape)
                )

    def _check_labels(self, key: str, names: tuple[str, ...]) -> None:
        value = getattr(self, key)
        if value is not None and value.size and (value.min() < 0 or value.max() >= len(names)):
            bad = int(value.min() if value.min() < 0 else value.max())
            expected = f"0 to {len(names) - 1}" if names else "names"
            raise InputError(f"`{key}` has a value without a name", where=self.name, expected=expected, got=str(bad))

    def _check_class_parts(self) -> None:
        if not self.class_parts or self.part is None or self.label is None:
            return
        if len(self.class_parts) != len(self.class_names):
            got = f"{len(self.class_parts)} of {len(self.class_names)}"
            raise InputError("not every class says which parts it has", where=self.name, got=got)
        allowed = np.zeros((len(self.class_names), len(self.part_names)), dtype=np.bool_)
        for row, parts in enumerate(self.class_parts):
            allowed[row, list(parts)] = True
        right = allowed[np.repeat(self.label, self.sizes), self.part]
        if not right.all():
            point = int(np.flatnonzero(~right)[0])
            cloud = int(np.searchsorted(self.ptr, point, side="right")) - 1
            name = self.class_names[self.label[cloud]]
            raise InputError(
                f"a part that no {name} has",
                where=self._at(cloud),
                expected=str(self.class_parts[self.label[cloud]]),
                got=str(int(self.part[point])),
            )

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def sizes(self) -> Int[np.ndarray, " S"]:
        """Number of points of each cloud."""
        return np.diff(self.ptr)

    @property
    def pos_in_source(self) -> Float[np.ndarray, "A 3"]:
        """Positions in the coordinates of the source."""
        pos = self.pos.astype(np.float64)
        if self.factor is not None:
            pos = pos / np.repeat(self.factor, self.sizes)[:, None]
        return pos if self.centre is None else pos + np.repeat(self.centre, self.sizes, axis=0)

    @property
    def reaches(self) -> Float[np.ndarray, " S"]:
        """How far the farthest point of each cloud is from the mean of its points."""
        starts, sizes = self.ptr[:-1], self.sizes
        centre = np.add.reduceat(self.pos, starts, axis=0, dtype=np.float64) / sizes[:, None]
        local = np.linalg.norm(self.pos - np.repeat(centre, sizes, axis=0), axis=1)
        return np.asarray(np.maximum.reduceat(local, starts))

    def _rows(self, index: Rows) -> np.ndarray:
        rows = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            bad = int(rows.min() if rows.min() < 0 else rows.max())
            raise ConfigError(
                "row number outside the set", where=self.name, expected=f"0 to {len(self) - 1}", got=str(bad)
            )
        return rows

    def _points(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the points of the chosen clouds, and their pointers."""
        counts = self.sizes[rows]
        ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return np.repeat(self.ptr[:-1][rows] - ptr[:-1], counts) + np.arange(ptr[-1]), ptr

    def subset(self, index: Rows) -> Clouds:
        """The chosen clouds, in the given order; `splits` are dropped as their rows no longer hold.

        Raises:
            ConfigError: a row number outside the set.
        """
        rows = self._rows(index)
        points, ptr = self._points(rows)
        return replace(
            self,
            pos=self.pos[points],
            ptr=ptr,
            normals=None if self.normals is None else self.normals[points],
            label=None if self.label is None else self.label[rows],
            part=None if self.part is None else self.part[points],
            splits={},
            names=tuple(self.names[row] for row in rows) if self.names else (),
            centre=None if self.centre is None else self.centre[rows],
            factor=None if self.factor is None else self.factor[rows],
        )

    def split(self, name: str) -> Clouds:
        """The clouds of a named split, such as "train" or "test".

        Raises:
            ConfigError: no such split.
        """
        if name not in self.splits:
            remedy = nearest(name, self.splits) if self.splits else "this set has no splits"
            raise ConfigError(f'unknown split "{name}"', where=self.name, remedy=remedy)
        return replace(self.subset(self.splits[name]), name=f"{self.name}[{name}]")

    def batch(
        self,
        index: Rows,
        *,
        num_points: int | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> CloudBatch:
        """Some clouds as tensors.

        Args:
            num_points: take so many points of each cloud, or all where it has fewer: the first ones, or a random subset
                where a generator is given.

        Raises:
            ConfigError: a row number outside the set, or `num_points` below 1.
        """
        rows = self._rows(index)
        points, ptr = self._points(rows)
        if num_points is not None:
            points, ptr = _take(points, ptr, num_points, generator)
        take = torch.from_numpy(points)
        return CloudBatch(
            pos=torch.from_numpy(self.pos)[take].to(dtype),
            ptr=torch.from_numpy(ptr),
            normals=None if self.normals is None else torch.from_numpy(self.normals)[take].to(dtype),
            label=None if self.label is None else torch.from_numpy(self.label[rows]),
            part=None if self.part is None else torch.from_numpy(self.part)[take],
            frame=torch.eye(3, dtype=dtype).repeat(len(rows), 1, 1),
        )

    def content_hash(self) -> str:
        """SHA-256 of arrays and the meaning of labels (not names, splits or source)."""
        digest = hashlib.sha256(repr((self.class_names, self.part_names, self.class_parts)).encode())
        for key in _DTYPES:
            value = getattr(self, key)
            digest.update(f"{key}:none".encode() if value is None else f"{key}:{value.shape}".encode())
            if value is not None:
                digest.update(value.tobytes())
        return digest.hexdigest()


def _take(
    points: np.ndarray, ptr: np.ndarray, num: int, generator: torch.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(num, bool) or not isinstance(num, int) or num < 1:
        raise ConfigError("`num_points` is not a count", expected="1 or more", got=repr(num))
    sizes = np.diff(ptr)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    # by cloud, then by a random key (or the given order); the first `num` of each are taken, in their given order
    key = np.arange(len(points)) if generator is None else torch.rand(len(points), generator=generator).numpy()
    rank = np.empty(len(points), dtype=np.int64)
    rank[np.lexsort((key, owner))] = np.arange(len(points)) - ptr[owner]
    kept = np.minimum(sizes, num)
    return points[rank < num], np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)


def join_clouds(
    pieces: Sequence[np.ndarray], *, name: str, normals: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Points and normals of many clouds in flat arrays, with the row pointers.

    Raises:
        InputError: no clouds at all.
    """
    if not pieces:
        raise InputError("no clouds", where=name)
    ptr = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    return np.concatenate(pieces), ptr, None if normals is None else np.concatenate(normals)
