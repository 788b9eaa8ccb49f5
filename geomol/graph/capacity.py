"""How long a neighbour list will be, before it is made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geomol.errors import CapacityError

BYTES_PER_PAIR = 160  # peak over search, sorting and the int64 result
DEFAULT_MAX_BYTES = 4 * 1024**3
SAMPLED_DISTANCES = 500_000  # a few milliseconds
MAX_BINS = 64  # along each axis
MAX_SAMPLED_DISTANCES = 20_000_000  # beyond it, the lattice is so fine that the volume says it


def check_capacity(
    pos: NDArray[np.float64],
    box: NDArray[np.float64],
    images: NDArray[np.float64],
    radius: float,
    max_bytes: int,
    where: str | None = None,
) -> None:
    """Refuse a neighbour list that would not fit.

    Most lists pass by one of two bounds: N² × images, and the number of pairs in bins as wide as the radius that touch,
    which is about 7 times too high where the atoms fill the box evenly. Otherwise the neighbours of a sample of atoms
    are counted, or, where images are too many for that, the mean is taken from the volumes of sphere and cell.

    Raises:
        CapacityError: with the number of pairs and the memory they would take.
    """
    copies = float(np.prod(2 * images + 1))
    bound = len(pos) ** 2 * copies
    if bound * BYTES_PER_PAIR <= max_bytes:
        return
    bound = min(bound, touching_pairs(pos, box, images, radius))
    if bound * BYTES_PER_PAIR <= max_bytes:
        return
    pairs = min(bound, _estimate(pos, box, images, radius))
    size = pairs * BYTES_PER_PAIR
    if size > max_bytes:
        raise CapacityError(
            f"about {pairs:.3g} neighbour pairs of {len(pos)} atoms would need {size / 1024**3:.3g} GiB",
            where=where,
            expected=f"at most {max_bytes / 1024**3:.3g} GiB",
            remedy="use a smaller cutoff or structure, or raise max_bytes; neighbours are never dropped",
        )


def touching_pairs(
    pos: NDArray[np.float64], box: NDArray[np.float64], images: NDArray[np.float64], radius: float
) -> float:
    """Number of pairs of atoms in the same bin or in two that touch: at least that of pairs within the radius."""
    heights = 1 / np.linalg.norm(np.linalg.inv(box), axis=0)
    # fewer bins than would fit, for many atoms in a bin or none cost nothing but tightness
    bins = np.clip(np.floor(heights / (radius * (1 + 1e-9))), 1, MAX_BINS).astype(int)
    index = np.clip((pos @ np.linalg.inv(box) * bins).astype(int), 0, bins - 1)
    counts = np.bincount(np.ravel_multi_index(tuple(index.T), tuple(bins)), minlength=int(bins.prod())).reshape(bins)
    near = counts.astype(float)
    for axis, num_images in enumerate(images):
        if bins[axis] == 1:  # with all its images
            near = near * (2 * max(num_images, 1) + 1)
        else:
            near = near + np.roll(near, 1, axis) + np.roll(near, -1, axis)
    return float((counts * near).sum())


def _estimate(pos: NDArray[np.float64], box: NDArray[np.float64], images: NDArray[np.float64], radius: float) -> float:
    """Number of pairs within the radius."""
    num_atoms, copies = len(pos), float(np.prod(2 * images + 1))
    if num_atoms * copies > MAX_SAMPLED_DISTANCES:
        # each periodic direction contributes 2 radius / height images; the sphere is smaller than that box
        heights = 1 / np.linalg.norm(np.linalg.inv(box), axis=0)
        chances = np.where(images > 0, 2 * radius / heights, 1.0)
        filling = {0: 1.0, 1: 1.0, 2: np.pi / 4, 3: np.pi / 6}[int((images > 0).sum())]
        return num_atoms**2 * float(np.prod(chances)) * filling
    steps = [np.arange(-n, n + 1) for n in images]
    shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3) @ box
    sample = np.unique(np.linspace(0, num_atoms - 1, max(1, int(SAMPLED_DISTANCES / (num_atoms * copies)))).astype(int))
    near = 0
    for i in sample:
        for shift in shifts:
            vec = pos + shift - pos[i]
            near += int((np.einsum("ij,ij->i", vec, vec) < radius * radius).sum())
    return near / len(sample) * num_atoms
