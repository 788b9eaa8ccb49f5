"""What a denoiser is worth: molecules sampled from it and judged, and how equivariant its estimates are."""

from __future__ import annotations

import time

import numpy as np
import torch

from geomol.data import Structures
from geomol.diffusion import Denoiser, gaussian_cloud
from geomol.generate.driver import sample
from geomol.generate.protocols import edm_protocol
from geomol.generate.relaxers import relax_molecules
from geomol.generate.request import make_requests
from geomol.generate.results import known_orders, to_molecules
from geomol.generate.sampling import SampleSettings
from geomol.generate.score import score
from geomol.generate.strain import summarise
from geomol.geometry import random_rotations

TURNED = 64  # molecules whose estimates are compared with those of turned copies


def measure_denoiser(
    denoiser: Denoiser, test: Structures, *, num: int, settings: SampleSettings, seed: int = 0
) -> dict[str, float]:
    """Shares by the protocol "edm", median strain by MMFF94 (failures infinite), cost, and the symmetry error."""
    device = next(denoiser.parameters()).device
    start = _clock(device)
    made = sample(denoiser, make_requests(num, seed=seed, sizes=denoiser.sizes), settings)
    seconds = _clock(device) - start
    molecules = to_molecules(made)
    result = score(molecules, edm_protocol)
    figures = {name: share.value for name, share in result.shares.items()}
    figures["molecule_stability_standard_error"] = result.shares["molecule_stability"].error
    orders = known_orders(molecules.structures, result.verdicts.orders)
    strain = summarise(relax_molecules(molecules.structures, "mmff", orders=orders))
    figures |= {
        "strain_median_kcal_per_mol": strain.median,
        "strain_median_of_kept_kcal_per_mol": strain.median_of_kept,
        "per_1000_s": 1000 * seconds / num,
        "evaluations": float(settings.evaluations),
        "equivariance_error": equivariance_error(denoiser, test, seed=seed),
    }
    return figures


def _clock(device: torch.device) -> float:
    """Seconds that this process has computed, whatever else the machine does; with a GPU those on the wall, once all
    that was launched is done.
    """
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def equivariance_error(denoiser: Denoiser, structures: Structures, *, seed: int = 0) -> float:
    """Mean ‖x̂(R y) − R x̂(y)‖ / mean ‖x̂(y) − y‖ over noisy structures at all levels and random rotations R."""
    rows = np.unique(np.linspace(0, len(structures) - 1, min(TURNED, len(structures))).round().astype(int))
    chosen = structures.subset(rows)
    device = next(denoiser.parameters()).device
    numbers, pos, ptr = (torch.from_numpy(np.asarray(a)).to(device) for a in (chosen.numbers, chosen.pos, chosen.ptr))
    clean = denoiser.encode(pos, numbers.long(), ptr.long())
    generator = torch.Generator().manual_seed(seed)
    level = denoiser.levels.draw(len(rows), generator).to(device, denoiser.dtype)
    generators = [torch.Generator().manual_seed(seed + 1 + i) for i in range(len(rows))]
    noisy = clean.plus(gaussian_cloud(clean.ptr, clean.feats.shape[1], generators, dtype=denoiser.dtype).scaled(level))
    turn = random_rotations(len(rows), generator=generator).to(device, denoiser.dtype)[clean.batch]
    turned = noisy.replace(torch.bmm(noisy.pos[:, None], turn.mT)[:, 0], noisy.feats)
    here, there = denoiser(noisy, level).clean.pos, denoiser(turned, level).clean.pos
    expected = torch.bmm(here[:, None], turn.mT)[:, 0]
    return float((there - expected).norm(dim=1).mean() / (here - noisy.pos).norm(dim=1).mean())
