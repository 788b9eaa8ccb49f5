"""How far two sets of molecules differ in their bond lengths, angles and torsions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from scipy.stats import wasserstein_distance

from geomol.generate.internal_coordinates import KINDS, Coordinates, InternalCoordinates

_BOND_SIGN = {1: "-", 2: "=", 3: "#", 4: ":"}


@dataclass(frozen=True)
class KeyRow:
    """One kind of bond, angle or torsion in two sets.

    Attributes:
        name: such as "C=O", "H-C-H" or "H-C-C-O".
        generated, reference: how many there are.
        w1: Wasserstein-1 distance of the two distributions, Å or degrees; NaN where one set has too few.
        mean_shift: mean of the generated minus mean of the reference, Å or degrees.
    """

    name: str
    generated: int
    reference: int
    w1: float
    mean_shift: float


@dataclass(frozen=True)
class KindComparison:
    """One kind of internal coordinate in two sets: lengths, angles or torsions.

    Attributes:
        kind, unit: "length" in "A", "angle" or "torsion" in "deg".
        w1: mean over the keys of both sets, weighted by their shares in the reference.
        shift: the same mean of the absolute difference of means.
        key_tv: total variation between the shares of the keys, 0–1; what `w1` cannot see.
        covered: share of the reference that belongs to keys of both sets.
        rows: one per key, the most frequent of the reference first.
    """

    kind: str
    unit: str
    w1: float
    shift: float
    key_tv: float
    covered: float
    rows: tuple[KeyRow, ...]


@dataclass(frozen=True)
class GeometryComparison:
    """Two sets of molecules compared by `compare_geometry`."""

    kinds: tuple[KindComparison, ...]

    def figures(self) -> dict[str, float]:
        """Numbers by name, with units."""
        found = {}
        for row in self.kinds:
            found[f"{row.kind}_w1_{row.unit}"] = row.w1
            found[f"{row.kind}_mean_shift_{row.unit}"] = row.shift
            found[f"{row.kind}_key_tv"] = row.key_tv
            found[f"{row.kind}_reference_covered"] = row.covered
        return found


def compare_geometry(
    generated: InternalCoordinates, reference: InternalCoordinates, *, min_count: int = 10
) -> GeometryComparison:
    """Wasserstein-1 distance between two sets for each kind of bond, angle and torsion, and the mean over kinds.

    Weights are the shares in the reference, over the keys that both sets have `min_count` times (as MiDi weighs them;
    arXiv 2302.09048). What is left out by that is told by `covered` and `key_tv`. Two samples of one distribution do
    not give 0: compare with two halves of the reference.

    Args:
        generated, reference: from `internal_coordinates`.
        min_count: fewest values of a key in each set.
    """
    rows = [
        _compare_kind(kind, unit, getattr(generated, kind).defined(), getattr(reference, kind).defined(), min_count)
        for kind, unit in KINDS.items()
    ]
    return GeometryComparison(tuple(rows))


def key_name(kind: str, key: Sequence[int]) -> str:
    """ "C=O" for the length (6, 8, 2), "H-C-H" for an angle, "H-C=C-H" for a torsion about a double bond."""
    if kind == "angle":
        return "-".join(chemical_symbols[z] for z in key)
    symbols, sign = [chemical_symbols[z] for z in key[:-1]], _BOND_SIGN.get(key[-1], "~")
    return sign.join(symbols) if kind == "length" else f"{symbols[0]}-{symbols[1]}{sign}{symbols[2]}-{symbols[3]}"


def _compare_kind(
    kind: str, unit: str, generated: Coordinates, reference: Coordinates, min_count: int
) -> KindComparison:
    both = np.concatenate([generated.keys, reference.keys])
    keys, label = np.unique(both, axis=0, return_inverse=True)
    label = label.reshape(-1)
    mine = _by_label(label[: len(generated.values)], generated.values, len(keys))
    theirs = _by_label(label[len(generated.values) :], reference.values, len(keys))
    shares = [np.array([len(v) for v in side], dtype=float) for side in (mine, theirs)]
    shares = [s / max(s.sum(), 1.0) for s in shares]
    rows = [_row(key_name(kind, k), a, b, min_count) for k, a, b in zip(keys.tolist(), mine, theirs, strict=True)]
    w1, shift = np.array([r.w1 for r in rows]), np.abs([r.mean_shift for r in rows])
    known = np.isfinite(w1)
    covered = float(shares[1][known].sum())
    weight = shares[1][known] / covered if covered > 0 else np.full(int(known.sum()), np.nan)
    return KindComparison(
        kind,
        unit,
        w1=float((weight * w1[known]).sum()) if covered > 0 else float("nan"),
        shift=float((weight * shift[known]).sum()) if covered > 0 else float("nan"),
        key_tv=_total_variation(*shares),
        covered=covered,
        rows=tuple(sorted(rows, key=lambda row: (-row.reference, -row.generated, row.name))),
    )


def _row(name: str, generated: np.ndarray, reference: np.ndarray, min_count: int) -> KeyRow:
    enough = min(len(generated), len(reference)) >= max(min_count, 1)
    w1 = float(wasserstein_distance(generated, reference)) if enough else float("nan")
    shift = float(generated.mean() - reference.mean()) if enough else float("nan")
    return KeyRow(name, len(generated), len(reference), w1, shift)


def _total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """½ Σ |p − q|; NaN if one set is empty."""
    return float(0.5 * np.abs(p - q).sum()) if p.sum() > 0 and q.sum() > 0 else float("nan")


def _by_label(label: np.ndarray, values: np.ndarray, num: int) -> list[np.ndarray]:
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], np.arange(num + 1)).tolist()
    return [values[order[first:last]] for first, last in itertools.pairwise(bounds)]
