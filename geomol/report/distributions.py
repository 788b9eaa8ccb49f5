"""Distances in the kept frames of a simulation: g(r) of periodic systems, bond lengths of molecules."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy import ndarray

from geomol.errors import GeomolError
from geomol.md import bond_lengths, rdf
from geomol.report.trajectory import Trajectory

MAX_DISTANCE = 8.0  # Å, upper end of g(r)
BINS = 120
MAX_PAIRS = 8  # curves that one figure can show apart
ATOMS_TO_VISIT = 20_000  # frames × atoms for g(r): a second or two

Curves = dict[str, tuple[ndarray, ndarray]]


def radial_distribution(trajectory: Trajectory) -> Curves:
    """g(r) of all atoms, averaged over kept frames; nothing unless every direction is periodic."""
    frames = _frames(trajectory)
    count = min(len(frames), max(2, ATOMS_TO_VISIT // len(frames[0])))
    chosen = [frames[i] for i in sorted({round(i) for i in np.linspace(0, len(frames) - 1, count)})]
    try:
        heights = [1.0 / np.linalg.norm(np.linalg.inv(frame.cell.array), axis=0).max() for frame in chosen]
        found = rdf(chosen, r_max=min(MAX_DISTANCE, 0.4999 * float(min(heights))), bins=BINS)
    except (GeomolError, np.linalg.LinAlgError):
        return {}
    return {"all pairs": (found.r, found.value)}


def bond_distribution(trajectory: Trajectory) -> Curves:
    """Probability density (1/Å) of the bond lengths by pair of elements, over the kept frames of a molecule."""
    try:
        found = bond_lengths(_frames(trajectory))
    except GeomolError:
        return {}
    curves: Curves = {}
    for name, lengths in sorted(found.items())[:MAX_PAIRS]:
        low, high = float(lengths.min()), float(lengths.max())
        margin = 0.1 * (high - low) + 1e-3
        # Scott's rule for the width, 3.5 σ n^(-1/3)
        width = 3.5 * float(lengths.std()) * lengths.size ** (-1 / 3)
        bins = int(np.clip((high - low + 2 * margin) / max(width, 1e-9), 4, 50))
        density, edges = np.histogram(lengths, bins=bins, range=(low - margin, high + margin), density=True)
        curves[name] = (np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]]), np.pad(density, 1))
    return curves


def _frames(trajectory: Trajectory) -> list[Atoms]:
    if trajectory.cells is None:
        return [Atoms(trajectory.symbols, positions=positions) for positions in trajectory.positions]
    return [
        Atoms(trajectory.symbols, positions=positions, cell=cell, pbc=trajectory.pbc)
        for positions, cell in zip(trajectory.positions, trajectory.cells, strict=True)
    ]
