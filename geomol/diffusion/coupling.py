"""Which noise meets which structure: by chance, or by the shortest way."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from geomol.diffusion.cloud import Cloud


def optimal_transport(noise: Cloud, data: Cloud) -> Cloud:
    """Noise whose points are exchanged, and which is then turned, such that it lies close to the data.

    For each structure: the permutation π that minimises Σ_i |x_i − ε_π(i)|² (Hungarian method), then the rotation R
    that minimises Σ_i |x_i − R ε_π(i)|² (Kabsch). Paths from noise to data get shorter and cross less, so fewer steps
    are needed. What comes out is no longer independent of the data: the flow that a denoiser trained on it defines is
    still right, the reverse diffusion (ancestral steps, churn) is not. Source: equivariant optimal transport of Song
    et al., NeurIPS 2023 (arXiv:2312.07168), section 4.2, with one round of both.

    Symmetry: permutations of the data permute the result, those of the noise leave it; turning both turns the result.
    Turning one alone changes which permutation is found, hence the result is the same in law only.

    Args:
        noise: ε, centred; its features, which are independent of its positions, stay.
        data: x, centred, with the same bounds.
    """
    targets, sources = (c.pos.detach().double().cpu().numpy() for c in (data, noise))
    out = np.empty_like(sources)
    for first, last in np.lib.stride_tricks.sliding_window_view(data.ptr.cpu().numpy(), 2):
        x, eps = targets[first:last], sources[first:last]
        cost = np.square(x[:, None] - eps).sum(-1)
        matched = eps[linear_sum_assignment(cost)[1]]
        out[first:last] = matched @ _rotation(matched, x)
    pos = torch.from_numpy(out).to(noise.pos.device, noise.pos.dtype)
    return noise.replace(pos, noise.feats)


def _rotation(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The proper rotation R for which points @ R is nearest to the targets."""
    left, _, right = np.linalg.svd(points.T @ targets)
    left[:, -1] *= np.sign(np.linalg.det(left @ right))
    return np.asarray(left @ right)
