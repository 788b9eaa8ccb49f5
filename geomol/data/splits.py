"""Dividing a set: random, blocked for trajectories, and the official rMD17 protocol; all repeatable and checked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geomol.data.structures import Structures
from geomol.errors import ConfigError

Split = dict[str, np.ndarray]
VALID_EVERY = 20  # official_split: every 20th of the 1000 training rows validates


def check_split(rows: np.ndarray, total: int, *, where: str) -> None:
    """Raise ConfigError where row numbers are outside `0 … total − 1` or occur twice, with the counts."""
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ConfigError("a split is a list of row numbers", where=where, got=f"{rows.dtype} {rows.shape}")
    outside = int(((rows < 0) | (rows >= total)).sum())
    if outside:
        raise ConfigError(
            f"{outside} row numbers exceed the data",
            where=where,
            expected=f"0 to {total - 1}",
            got=f"{rows.min()} to {rows.max()}",
        )
    repeated = len(rows) - len(np.unique(rows))
    if repeated:
        raise ConfigError(
            "row numbers are repeated",
            where=where,
            expected="each at most once",
            got=f"{repeated} repeats of {len(rows)}",
        )


def check_splits(splits: Mapping[str, np.ndarray], total: int, *, where: str = "splits") -> None:
    """Check each split, and that no row is in two of them.

    Raises:
        ConfigError: rows beyond the data, repeated or shared, with the counts.
    """
    names = list(splits)
    for name in names:
        check_split(splits[name], total, where=f"{where}, {name}")
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = len(np.intersect1d(splits[first], splits[second]))
            if shared:
                sizes = f"{len(splits[first])} and {len(splits[second])} rows"
                raise ConfigError(
                    f"{first} and {second} overlap",
                    where=where,
                    expected="no shared rows",
                    got=f"{shared} shared of {sizes}",
                )


def _check_sizes(total: int, sizes: Mapping[str, int], spare: int) -> None:
    wrong = {name: size for name, size in sizes.items() if size < 0 or isinstance(size, bool) or size != int(size)}
    if wrong:
        name, size = next(iter(wrong.items()))
        raise ConfigError(f"size of split {name} is not a count", expected="0 or more", got=str(size))
    wanted = sum(sizes.values()) + spare
    if wanted > total:
        parts = " + ".join(f"{size} {name}" for name, size in sizes.items())
        gaps = f" + {spare} in gaps" if spare else ""
        raise ConfigError("split sizes exceed the data", expected=f"at most {total}", got=f"{wanted} ({parts}{gaps})")


def random_split(total: int, sizes: Mapping[str, int], *, seed: int) -> Split:
    """Disjoint random rows: one seeded permutation of `total` rows, cut in the order of `sizes`.

    Raises:
        ConfigError: sizes that exceed the data, or are no counts.
    """
    _check_sizes(total, sizes, 0)
    order = np.random.default_rng(seed).permutation(total)
    ends = np.cumsum(list(sizes.values()), dtype=np.int64)
    return {name: order[end - size : end] for (name, size), end in zip(sizes.items(), ends, strict=True)}


def blocked_split(total: int, sizes: Mapping[str, int], *, gap: int = 0) -> Split:
    """Contiguous blocks in the order of `sizes`, for trajectories, with `gap` unused frames between blocks.

    Neighbouring frames of a trajectory are nearly copies of each other, so a random split of one measures memory
    rather than generalisation; the gap should exceed the correlation time.

    Raises:
        ConfigError: sizes and gaps that exceed the data, or are no counts.
    """
    if gap < 0:
        raise ConfigError("gap between blocks is negative", expected="0 or more", got=str(gap))
    _check_sizes(total, sizes, gap * max(len(sizes) - 1, 0))
    blocks: Split = {}
    start = 0
    for name, size in sizes.items():
        blocks[name] = np.arange(start, start + size)
        start += size + gap
    return blocks


def official_split(structures: Structures, k: int) -> Split:
    """Official rMD17 split k (1 to 5): `train` 950, `valid` 50 and `test` 1000 rows.

    The benchmark publishes 1000 training rows and allows no more; validation frames are therefore taken from them:
    every 20th (the 1st, 21st, …) in the published order.

    Raises:
        ConfigError: a set without the arrays of this split.
    """
    missing = [key for key in (f"train_{k}", f"test_{k}") if key not in structures.splits]
    if missing:
        known = sorted(key for key in structures.splits if key.startswith(("train_", "test_")))
        raise ConfigError(
            f"no official split {k}: {' and '.join(missing)} missing",
            where=structures.name,
            got=", ".join(known) or "none",
        )
    rows = structures.splits[f"train_{k}"]
    chosen = np.arange(len(rows)) % VALID_EVERY == 0
    split = {"train": rows[~chosen], "valid": rows[chosen], "test": structures.splits[f"test_{k}"]}
    check_splits(split, len(structures), where=structures.name)
    return split
