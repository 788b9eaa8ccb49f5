"""The metrics of a set of generated molecules under one protocol, with standard errors.

Every share of molecules is over all molecules asked for, failures included, unless its name says otherwise:

| figure | definition |
|---|---|
| atom_stability | stable atoms / atoms |
| molecule_stability | stable molecules / molecules |
| valid | valid molecules / molecules |
| connected, valid_connected | molecules of one piece, and those that are also valid / molecules |
| unique_of_valid | different SMILES / valid molecules (the "uniqueness" of EDM) |
| valid_unique | different SMILES / molecules (V·U) |
| novel_of_unique | different SMILES that are not of the training data / different SMILES (the "novelty" of EDM) |
| valid_unique_novel | different SMILES that are not of the training data / molecules (V·U·N) |

Standard errors: binomial for shares of molecules; for atoms, which are not independent within a molecule, that of the
ratio of the sums over molecules.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from geomol.generate.molecules import Molecules
from geomol.generate.protocols import Protocol, Verdicts

Metric = Callable[[Molecules, Verdicts], Mapping[str, float]]  # further figures of a set, by name with unit


@dataclass(frozen=True)
class Share:
    """A fraction with its standard error."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Score:
    """The figures of one protocol on one set of molecules."""

    protocol: str
    molecules: int
    unreadable: int
    shares: Mapping[str, Share]
    extra: Mapping[str, float]
    failures: Mapping[str, int]  # how often each kind of fault occurred, most frequent first
    verdicts: Verdicts
    seconds: float

    def figures(self) -> dict[str, object]:
        """As JSON has it: shares as fractions, and their standard errors under `…_standard_error`."""
        shares: dict[str, object] = {}
        for name, share in self.shares.items():
            shares[name] = share.value
            shares[f"{name}_standard_error"] = share.error
        return {
            "molecules": self.molecules,
            "unreadable": self.unreadable,
            **shares,
            **self.extra,
            "failures": dict(self.failures),
            "time_s": self.seconds,
        }


def share(count: float, total: float) -> Share:
    """count / total with its binomial standard error; NaN of nothing."""
    if not total:
        return Share(math.nan, math.nan)
    value = count / total
    return Share(value, math.sqrt(max(value * (1 - value), 0.0) / total))


def ratio(part: np.ndarray, whole: np.ndarray) -> Share:
    """sum(part) / sum(whole) over molecules, with the standard error of a ratio of sums."""
    total, size = float(whole.sum()), len(whole)
    if not total:
        return Share(math.nan, math.nan)
    value = float(part.sum()) / total
    residual = part - value * whole
    spread = math.sqrt(size / max(size - 1, 1) * float((residual**2).sum()))
    return Share(value, spread / total)


def shares_of(verdicts: Verdicts, train_smiles: Collection[str] | None = None) -> dict[str, Share]:
    """All figures of the table at the top.

    Args:
        verdicts: what a protocol says of each molecule.
        train_smiles: SMILES of the training molecules by the same protocol and the same release of RDKit; without
            them nothing is said of novelty.
    """
    size, valid = len(verdicts), int(verdicts.valid.sum())
    unique = {text for text in verdicts.smiles if text}
    shares = {
        "atom_stability": ratio(verdicts.stable_atoms, verdicts.n_atoms),
        "molecule_stability": share(int(verdicts.stable.sum()), size),
        "valid": share(valid, size),
        "connected": share(int(verdicts.connected.sum()), size),
        "valid_connected": share(int((verdicts.valid & verdicts.connected).sum()), size),
        "unique_of_valid": share(len(unique), valid),
        "valid_unique": share(len(unique), size),
    }
    if train_smiles is not None:
        novel = len(unique - set(train_smiles))
        shares["novel_of_unique"] = share(novel, len(unique))
        shares["valid_unique_novel"] = share(novel, size)
    return shares


def score(
    molecules: Molecules,
    protocol: Protocol,
    *,
    train_smiles: Collection[str] | None = None,
    metrics: Collection[Metric] = (),
) -> Score:
    """Judge molecules by a protocol.

    Args:
        molecules: what was generated, with the records that could not be read.
        protocol: one of `PROTOCOLS`.
        train_smiles: as for `shares_of`.
        metrics: further functions of the molecules and their verdicts, whose figures are added.
    """
    start = time.perf_counter()
    verdicts = protocol(molecules)
    shares = shares_of(verdicts, train_smiles)
    extra: dict[str, float] = {}
    for metric in metrics:
        extra.update(metric(molecules, verdicts))
    return Score(
        protocol=verdicts.protocol,
        molecules=len(molecules),
        unreadable=len(molecules.faults),
        shares=shares,
        extra=extra,
        failures=dict(Counter(kind_of_fault(text) for text in verdicts.reasons if text).most_common()),
        verdicts=verdicts,
        seconds=time.perf_counter() - start,
    )


def kind_of_fault(reason: str) -> str:
    """A reason without the number of the atom and other details, so that reasons can be counted."""
    for start, kind in _KINDS.items():
        if start in reason:
            return kind
    return re.sub(r"\d+", "N", reason)


_KINDS = {
    "Explicit valence": "RDKit: more bonds than the valence allows",
    " bonds, not ": "an atom with too few or too many bonds",
    "unpaired electron": "a radical",
    " pieces": "more than one piece",
    "total charge": "charged",
    "Final molecular charge": "RDKit: no bond orders for a neutral molecule",
    "determine valence": "RDKit: an atom whose valence cannot be determined",
    "kekulize": "RDKit: aromatic bonds that cannot be resolved",
    "no answer within": "bond perception took too long",
    "the worker died": "bond perception ended its process",
    "record": "unreadable record",
}
