"""Leaving bad frames out, aloud: the flat store without them, with its splits renumbered."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from geomol.data.checks import bad_structures, first_fault
from geomol.data.structures import Structures
from geomol.errors import GeomolWarning, InputError


def sound_structures(structures: Structures, *, skip_bad: bool, may_lack: Collection[str] = ()) -> Structures:
    """The structures without faults; the first fault is raised unless `skip_bad`, which drops, counts and lists.

    Raises:
        InputError: a fault, or nothing but faults.
    """
    fault = first_fault(structures, may_lack=may_lack)
    if fault is None:
        return structures
    if not skip_bad:
        raise fault[1]
    bad = bad_structures(structures, may_lack=may_lack)
    if bad.all():
        raise InputError("no structures", where=structures.name, got="only bad frames")
    announce_dropped(structures.name, [int(row) for row in np.flatnonzero(bad)], len(structures), fault[1])
    return drop(structures, bad)


def rows_kept(num: int, bad: Collection[int]) -> Int[np.ndarray, " S"]:
    """The numbers of the `num` frames that were kept, of which `bad` are not."""
    return np.setdiff1d(np.arange(num + len(bad)), np.array(list(bad), dtype=np.int64))


def announce_dropped(where: str, frames: list[int], total: int, first: Exception, *, stacklevel: int = 4) -> None:
    """Warn with the number of frames left out, which, and why the first was."""
    listed = ", ".join(map(str, frames[:20])) + (", …" if len(frames) > 20 else "")
    text = f"{where}: {len(frames)} bad of {total} frames left out ({listed}); the first: {first}"
    warnings.warn(text, GeomolWarning, stacklevel=stacklevel)


def announce_partial_labels(where: str, structures: Structures, *, stacklevel: int = 4) -> None:
    """Warn where a label is there for some structures only, once for all labels."""
    counts = {quantity: int(structures.labelled(quantity).sum()) for quantity in ("energy", "forces", "stress")}
    partial = [f"{quantity} in {count}" for quantity, count in counts.items() if 0 < count < len(structures)]
    if partial:
        text = f"{where}: not all of {len(structures)} frames are labelled ({', '.join(partial)}); the rest is NaN"
        warnings.warn(text, GeomolWarning, stacklevel=stacklevel)


def drop(structures: Structures, bad: Bool[np.ndarray, " S"]) -> Structures:
    """The structures that are not `bad`, with the splits renumbered."""
    new_row = np.cumsum(~bad) - 1
    splits = {name: new_row[rows[~bad[rows]]] for name, rows in structures.splits.items()}
    return replace(structures.subset(~bad), splits=splits)
