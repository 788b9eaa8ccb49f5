"""Distances up to which two atoms count as bonded: the table by which generated molecules of QM9 are judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# pm, by pair of elements (lower atomic number first): single, double, triple.
# Source: Hoogeboom et al., ICML 2022 (arXiv:2203.17003), appendix, as in the authors' code.
BOND_LENGTHS_PM: dict[tuple[int, int], tuple[float, ...]] = {
    (1, 1): (74,),
    (1, 6): (109,),
    (1, 7): (101,),
    (1, 8): (96,),
    (1, 9): (92,),
    (6, 6): (154, 134, 120),
    (6, 7): (147, 129, 116),
    (6, 8): (143, 120, 113),
    (6, 9): (135,),
    (7, 7): (145, 125, 110),
    (7, 8): (140, 121),
    (7, 9): (136,),
    (8, 8): (148, 121),
    (8, 9): (142,),
    (9, 9): (142,),
}
MARGINS_PM = (10.0, 5.0, 3.0)  # added to single, double, triple; chosen by the authors to fit QM9


def bond_thresholds(elements: Sequence[int]) -> Float[np.ndarray, "K K 3"]:
    """Distance below which a pair has at least order 1, 2, 3, Å; −inf where the table has no such bond.

    An order counts only where all lower ones do, so thresholds never grow with the order.
    """
    out = np.full((len(elements), len(elements), 3), -np.inf)
    for i, a in enumerate(elements):
        for j, b in enumerate(elements):
            lengths = BOND_LENGTHS_PM.get((min(a, b), max(a, b)), ())
            limits = [(length + margin) / 100 for length, margin in zip(lengths, MARGINS_PM, strict=False)]
            out[i, j, : len(limits)] = np.minimum.accumulate(limits) if limits else []
    return out
