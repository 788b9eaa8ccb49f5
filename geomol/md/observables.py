"""What is measured on a trajectory, with intervals that know that successive frames are correlated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers, covalent_radii
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from geomol.errors import InputError
from geomol.graph import neighbour_list

FS_PER_NS = 1e6
BOND_TOLERANCE = 1.25  # times the sum of covalent radii: longer than any bond, shorter than any contact
_WINDOW = 5.0  # Sokal: sum the autocorrelation up to five times the correlation time


@dataclass(frozen=True)
class Estimate:
    """A value with the half-width of its 95 % confidence interval."""

    value: float
    half_width: float

    @property
    def low(self) -> float:
        return self.value - self.half_width

    @property
    def high(self) -> float:
        return self.value + self.half_width


@dataclass(frozen=True)
class Distribution:
    """A histogram over distance: centres of the bins (Å) and the value in each."""

    r: NDArray[np.float64]
    value: NDArray[np.float64]


def temperature(atoms: Atoms, freedoms: int | None = None) -> float:
    """Kinetic temperature 2 E_kin / (freedoms · k_B), K; by default 3N less constraints, as ASE counts."""
    freedoms = atoms.get_number_of_degrees_of_freedom() if freedoms is None else freedoms
    return float(2.0 * atoms.get_kinetic_energy() / (freedoms * units.kB))


def statistical_inefficiency(series: Float[np.ndarray, " T"]) -> float:
    """Number of successive values that count as one independent value, g = 1 + 2 Σ_k ρ_k ≥ 1.

    The sum ends at the first window that is five times the correlation time it has found (Sokal, 1989).
    """
    centred = np.asarray(series, dtype=np.float64) - np.mean(series)
    count = len(centred)
    variance = float(centred @ centred) / max(count, 1)
    if count < 4 or variance <= 0.0:
        return 1.0
    spectrum = np.fft.rfft(centred, 2 * count)
    rho = np.fft.irfft(spectrum * spectrum.conj())[:count] / (count * variance)
    g = 1.0 + 2.0 * np.cumsum(rho[1:])
    lag = np.arange(1, count)
    stop = np.flatnonzero(lag >= _WINDOW * np.maximum(g, 1.0) / 2.0)
    return float(max(1.0, g[stop[0]] if len(stop) else g[-1]))


def mean_with_interval(series: Float[np.ndarray, " T"]) -> Estimate:
    """Mean of a stationary series; the interval counts only its independent values."""
    values = np.asarray(series, dtype=np.float64)
    independent = len(values) / statistical_inefficiency(values)
    if independent <= 1.0 or len(values) < 2:
        return Estimate(float(values.mean()), float("inf"))
    error = float(values.std(ddof=1)) / np.sqrt(independent)
    return Estimate(float(values.mean()), float(stats.t.ppf(0.975, max(independent - 1.0, 1.0)) * error))


def energy_drift(time_fs: Float[np.ndarray, " T"], total_eV: Float[np.ndarray, " T"], num_atoms: int) -> Estimate:
    """Drift of the total energy, meV per atom per ns: slope of the least-squares line, with its 95 % interval.

    The usual error of a slope assumes independent residuals. Energy errors of an integrator oscillate and are not, so
    the variance is multiplied by the statistical inefficiency g of the residuals, and Student's t has T/g − 2 freedoms.

    Raises:
        InputError: fewer than three points, or unequal lengths.
    """
    time, energy = np.asarray(time_fs, dtype=np.float64), np.asarray(total_eV, dtype=np.float64)
    if len(time) != len(energy) or len(time) < 3:
        raise InputError(
            "a drift needs times and energies", expected="three or more of each", got=f"{len(time)}, {len(energy)}"
        )
    scale = 1000.0 * FS_PER_NS / num_atoms  # eV/fs to meV/atom/ns
    arm = time - time.mean()
    slope = float(arm @ (energy - energy.mean()) / (arm @ arm))
    residual = energy - energy.mean() - slope * arm
    g = statistical_inefficiency(residual)
    freedoms = max(len(time) / g - 2.0, 1.0)
    variance = g * float(residual @ residual) / max(len(time) - 2.0, 1.0) / float(arm @ arm)
    return Estimate(slope * scale, float(stats.t.ppf(0.975, freedoms) * np.sqrt(variance) * scale))


def rdf(frames: Sequence[Atoms], *, r_max: float, bins: int = 100, pair: tuple[str, str] | None = None) -> Distribution:
    """Radial distribution function g(r) of periodic frames.

    g(r) = V ⟨n(r, r+dr)⟩ / (4π/3 ((r+dr)³ − r³) · N_a (N_b − δ_ab)): with the N − 1 others in the density, an ideal gas
    has g = 1 for any N. Volumes are those of each frame.

    Args:
        frames: periodic in three directions.
        r_max: upper end, Å; at most half the smallest height of any cell, so that no image is counted twice.
        bins: number of bins.
        pair: symbols of the two elements; None: all atoms.

    Raises:
        InputError: no frames, a frame that is not periodic, r_max beyond half the cell, or an absent element.
    """
    if not frames:
        raise InputError("a radial distribution function needs frames", got="none")
    edges = np.linspace(0.0, r_max, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    total = np.zeros(bins)
    for index, atoms in enumerate(frames):
        _check_half_cell(atoms, r_max, f"frame {index}")
        is_a, is_b = _selected(atoms, pair)
        dst, src, shift = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, r_max)
        keep = is_a[dst] & is_b[src]
        vec = atoms.positions[src[keep]] + shift[keep] @ atoms.cell.array - atoms.positions[dst[keep]]
        count, _ = np.histogram(np.linalg.norm(vec, axis=1), bins=edges)
        pairs = is_a.sum() * is_b.sum() - (is_a & is_b).sum()
        total += count * atoms.get_volume() / (shells * pairs)
    return Distribution(0.5 * (edges[1:] + edges[:-1]), total / len(frames))


def bond_lengths(frames: Sequence[Atoms], *, tolerance: float = BOND_TOLERANCE) -> dict[str, NDArray[np.float64]]:
    """Lengths of the bonds of the first frame along a trajectory, Å, by pair of elements ("C-H"): (frames, bonds).

    Bonds are the pairs closer than `tolerance` × the sum of their covalent radii in the first frame. Later
    frames keep the cell shifts of the first, so positions must not be wrapped between frames.

    Raises:
        InputError: no frames, or frames of different atoms.
    """
    if not frames:
        raise InputError("bond lengths need frames", got="none")
    first = frames[0]
    radii = covalent_radii[first.numbers]
    reach = 2.0 * tolerance * float(radii.max())
    dst, src, shift = neighbour_list(first.positions, first.cell.array, first.pbc, reach)
    vec = first.positions[src] + shift @ first.cell.array - first.positions[dst]
    bonded = (dst < src) & (np.linalg.norm(vec, axis=1) < tolerance * (radii[dst] + radii[src]))
    dst, src, shift = dst[bonded], src[bonded], shift[bonded]
    found: list[NDArray[np.float64]] = []
    for index, atoms in enumerate(frames):
        if not np.array_equal(atoms.numbers, first.numbers):
            raise InputError("the atoms differ from those of the first frame", where=f"frame {index}")
        vec = atoms.positions[src] + shift @ atoms.cell.array - atoms.positions[dst]
        found.append(np.linalg.norm(vec, axis=1))
    lengths = np.stack(found)
    symbols = first.get_chemical_symbols()
    names = np.array(["-".join(sorted((symbols[i], symbols[j]))) for i, j in zip(dst, src, strict=True)])
    return {str(name): lengths[:, names == name] for name in np.unique(names)}


def mean_square_displacement(positions: Float[np.ndarray, "T N 3"]) -> Float[np.ndarray, " T"]:
    """⟨|r(t₀ + t) − r(t₀)|²⟩ over atoms and all origins t₀, Å², for each lag t; positions must not be wrapped.

    |a − b|² = |a|² + |b|² − 2 a·b, with the last term by Fourier transform: O(T log T).
    """
    pos = np.asarray(positions, dtype=np.float64)
    pos = pos - pos.mean(axis=0)
    count = len(pos)
    square = (pos**2).sum(axis=2).mean(axis=1)
    spectrum = np.fft.rfft(pos, 2 * count, axis=0)
    product = np.fft.irfft(spectrum * spectrum.conj(), axis=0)[:count].sum(axis=2).mean(axis=1)
    forward, backward = np.cumsum(square[::-1])[::-1], np.cumsum(square)
    lag = np.arange(count)
    both = forward[lag] + backward[count - 1 - lag]
    out: NDArray[np.float64] = np.maximum((both - 2.0 * product) / (count - lag), 0.0)
    return out


def _check_half_cell(atoms: Atoms, r_max: float, where: str) -> None:
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise InputError(
            "a radial distribution function needs a density, hence three periodic directions",
            where=where,
            got=f"pbc {atoms.pbc.tolist()}",
            remedy="use bond_lengths for molecules",
        )
    heights = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    half = 0.5 * float(heights.min())
    if not 0.0 < r_max <= half:
        expected = f"0 < r_max <= half the smallest cell height, {half:.4g} Å"
        raise InputError("r_max is out of range", where=where, expected=expected, got=f"{r_max:g} Å")


def _selected(atoms: Atoms, pair: tuple[str, str] | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if pair is None:
        everything = np.ones(len(atoms), dtype=bool)
        return everything, everything
    chosen = [atoms.numbers == atomic_numbers.get(symbol, -1) for symbol in pair]
    for symbol, mask in zip(pair, chosen, strict=True):
        if not mask.any():
            raise InputError("no such element in the frames", got=symbol)
    return chosen[0], chosen[1]
