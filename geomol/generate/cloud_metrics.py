"""How alike two sets of point clouds are: Chamfer distances, and the MMD, COV and 1-NNA that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from geomol.errors import InputError

BLOCK_BYTES = 64 << 20  # of one block of squared distances on a GPU


def chamfer_distances(
    first: Sequence[Float[np.ndarray, "_ 3"]],
    second: Sequence[Float[np.ndarray, "_ 3"]] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Float[np.ndarray, "A B"]:
    """CD(X, Y) = 1/|X| Σ_x min_y |x − y|² + 1/|Y| Σ_y min_x |x − y|² of every pair of clouds, float64.

    As in the code of Yang et al., PointFlow, ICCV 2019 (arXiv:1906.12320): squared distances, means over points, the
    sum of both directions. Exact on any device: by one k-d tree for each cloud on a CPU, where the time grows nearly
    with the number of points, and by blocks of all distances on a GPU.

    Symmetry: turning, mirroring or moving both clouds together changes nothing, nor does the order of the points.

    Args:
        first, second: clouds of any sizes; without `second` all pairs of the first, each computed once.
        device: where to compute.

    Raises:
        InputError: a cloud without points, or with points that are not finite.
    """
    one = _checked(first, "first")
    other = one if second is None else _checked(second, "second")
    if torch.device(device).type == "cpu":
        toward = _by_trees(one, other)
        back = toward.T if second is None else _by_trees(other, one).T
    else:
        toward, back = _by_blocks(one, other, torch.device(device))
    return np.asarray(toward + back)


def _checked(clouds: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    out = [np.ascontiguousarray(cloud, dtype=np.float64) for cloud in clouds]
    for number, cloud in enumerate(out):
        if cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud) or not np.isfinite(cloud).all():
            raise InputError(
                f"cloud {number} of the {name} set cannot be compared",
                expected="(n, 3) finite numbers, n ≥ 1",
                got=str(cloud.shape),
            )
    return out


def _by_trees(queries: Sequence[np.ndarray], clouds: Sequence[np.ndarray]) -> Float[np.ndarray, "Q C"]:
    """Mean over the points of each query of the squared distance to the nearest point of each cloud."""
    # points in the order of a tree's leaves find their neighbours in the cache: twice as fast
    points = np.concatenate([cloud[cKDTree(cloud).indices] for cloud in queries])
    starts = np.cumsum([0, *(len(cloud) for cloud in queries[:-1])])
    sizes = np.array([len(cloud) for cloud in queries])
    out = np.empty((len(queries), len(clouds)))
    for column, cloud in enumerate(clouds):
        nearest = points - cloud[cKDTree(cloud).query(points)[1]]
        out[:, column] = np.add.reduceat(np.square(nearest).sum(1), starts) / sizes
    return out


def _by_blocks(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], device: torch.device
) -> tuple[Float[np.ndarray, "A B"], Float[np.ndarray, "A B"]]:
    """Both directions from all distances, a block of clouds of the second set against one of the first at a time."""
    toward = np.empty((len(first), len(second)))
    back = np.empty_like(toward)
    widest = max(len(cloud) for cloud in second)
    packed, there = _padded(second, widest, device)
    for row, cloud in enumerate(first):
        x = torch.from_numpy(cloud).to(device)
        step = max(1, BLOCK_BYTES // (8 * len(cloud) * widest))
        for start in range(0, len(second), step):
            y, real = packed[start : start + step], there[start : start + step]
            squared = torch.zeros(len(y), len(x), widest, dtype=x.dtype, device=device)
            for axis in range(3):  # without a fourth dimension of the differences in memory
                squared += (x[None, :, None, axis] - y[:, None, :, axis]).square()
            ahead = squared.masked_fill(~real[:, None], math.inf).amin(2).mean(1)
            behind = torch.where(real, squared.amin(1), 0.0).sum(1) / real.sum(1)
            toward[row, start : start + step] = ahead.cpu().numpy()
            back[row, start : start + step] = behind.cpu().numpy()
    return toward, back


def _padded(clouds: Sequence[np.ndarray], widest: int, device: torch.device) -> tuple[Tensor, Tensor]:
    packed = torch.zeros(len(clouds), widest, 3, dtype=torch.float64)
    there = torch.zeros(len(clouds), widest, dtype=torch.bool)
    for number, cloud in enumerate(clouds):
        packed[number, : len(cloud)], there[number, : len(cloud)] = torch.from_numpy(cloud), True
    return packed.to(device), there.to(device)


@dataclass(frozen=True)
class CloudScore:
    """How well generated clouds match reference clouds, by one distance.

    Attributes:
        mmd: minimum matching distance, see `cloud_score`; in squared units of the coordinates.
        mmd_error: its standard error over the references.
        coverage: share of the references that are the nearest of some generated cloud.
        one_nna: accuracy of telling the sets apart by the nearest neighbour; 0.5 is best.
        one_nna_error: its standard error, as if clouds were drawn independently.
        num: clouds of each set.
    """

    mmd: float
    mmd_error: float
    coverage: float
    one_nna: float
    one_nna_error: float
    num: int

    def figures(self) -> dict[str, float]:
        """All by name."""
        return {
            "mmd_cd": self.mmd,
            "mmd_cd_standard_error": self.mmd_error,
            "coverage_cd": self.coverage,
            "one_nna_cd": self.one_nna,
            "one_nna_cd_standard_error": self.one_nna_error,
            "num_clouds": float(self.num),
        }


def cloud_score(
    within: Float[np.ndarray, "A A"], across: Float[np.ndarray, "A B"], reference: Float[np.ndarray, "B B"]
) -> CloudScore:
    """MMD, COV and 1-NNA of generated clouds S_g against reference clouds S_r from all their distances D.

        MMD    1/|S_r| Σ_{Y ∈ S_r} min_{X ∈ S_g} D(X, Y)
        COV    |{ argmin_{Y ∈ S_r} D(X, Y) : X ∈ S_g }| / |S_r|
        1-NNA  (Σ_{X ∈ S_g} [N_X ∈ S_g] + Σ_{Y ∈ S_r} [N_Y ∈ S_r]) / (|S_g| + |S_r|),

    N_X the cloud nearest to X among all others of both sets. Sets of one law have 1-NNA near 0.5; disjoint ones 1; a
    generator that repeats the references themselves gets below 0.5, down to 0.

    Source: Yang et al., PointFlow, ICCV 2019 (arXiv:1906.12320), section 5.1 (MMD and COV from Achlioptas et al., ICML
    2018; 1-NNA from Lopez-Paz, Oquab, ICLR 2017). Where a nearest of the own set and one of the other set are equally
    far, 1-NNA counts one half (there: whichever comes first).

    Args:
        within: D between generated clouds. across: from generated to reference clouds. reference: between those.

    Raises:
        InputError: tables that do not fit, fewer than two clouds, or sets of different sizes, for which 0.5 would not
            be the value of equal laws.
    """
    num = len(across)
    if within.shape != (num, num) or reference.shape != (num, num) or across.shape != (num, num) or num < 2:
        raise InputError(
            "the distances are not those of two sets of one size",
            expected="three square tables, two clouds or more",
            got=f"{within.shape}, {across.shape} and {reference.shape}",
        )
    nearest = across.min(axis=0)
    covered = len(np.unique(across.argmin(axis=1)))
    right = np.concatenate([_told_apart(within, across), _told_apart(reference, across.T)])
    accuracy = float(right.mean())
    return CloudScore(
        mmd=float(nearest.mean()),
        mmd_error=float(nearest.std(ddof=1) / math.sqrt(num)),
        coverage=covered / num,
        one_nna=accuracy,
        one_nna_error=math.sqrt(accuracy * (1 - accuracy) / (2 * num)),
        num=num,
    )


def _told_apart(own: Float[np.ndarray, "A A"], other: Float[np.ndarray, "A B"]) -> Float[np.ndarray, " A"]:
    """1 where the nearest is of the own set, ½ where one of each is equally near."""
    inside = np.where(np.eye(len(own), dtype=bool), math.inf, own).min(axis=1)
    outside = other.min(axis=1)
    return np.where(inside < outside, 1.0, np.where(inside == outside, 0.5, 0.0))


def score_clouds(
    generated: Sequence[Float[np.ndarray, "_ 3"]],
    reference: Sequence[Float[np.ndarray, "_ 3"]],
    *,
    device: torch.device | str = "cpu",
) -> CloudScore:
    """`cloud_score` by Chamfer distances; clouds are compared as they stand, neither moved nor scaled nor turned.

    Raises:
        InputError: as `chamfer_distances` and `cloud_score`.
    """
    return cloud_score(
        chamfer_distances(generated, device=device),
        chamfer_distances(generated, reference, device=device),
        chamfer_distances(reference, device=device),
    )
