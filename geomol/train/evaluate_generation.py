"""How well a denoiser denoises structures that it was not trained on, and how likely it finds them."""

from __future__ import annotations

import numpy as np
import torch

from geomol.data import Structures
from geomol.diffusion import (
    Cloud,
    Denoiser,
    SizePrior,
    Variational,
    eps_of_denoiser,
    estimate_nll,
    polynomial_schedule,
)
from geomol.errors import InputError
from geomol.train.generation_task import GenerationTask, MoleculePart
from geomol.train.sections import GenerationConfig

NLL_STEPS = 1000  # as EDM
NLL_BATCH = 100


def evaluate_generation(
    denoiser: Denoiser,
    structures: Structures,
    *,
    num_nll: int = 500,
    nll_times: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Denoising errors on all structures, and the bound on −ln p(x, h, n) of some, nats, term by term.

    The likelihood is that of the variational diffusion with the schedule of EDM (or the model's own) whose ε-network
    the denoiser amounts to, without self-conditioning; its standard error is over molecules. See
    `geomol.diffusion.NLL`.

    Args:
        denoiser: in evaluation mode.
        structures: finite, of elements that it makes.
        num_nll: at most so many molecules, evenly spaced, for the likelihood; 0 for none.
        nll_times: draws of time for each.
        seed: of noise and times.

    Raises:
        InputError: an element that the model does not make, or periodic structures.
    """
    strange = sorted(set(structures.elements()) - set(denoiser.elements)) if denoiser.elements else []
    if strange:
        raise InputError(
            "elements that the model does not make",
            where=structures.name,
            expected=str(list(denoiser.elements)),
            got=str(strange),
        )
    if structures.pbc.any():
        raise InputError("a denoiser of finite structures cannot judge periodic ones", where=structures.name)
    part = MoleculePart.from_structures(structures, None, denoiser, device=str(next(denoiser.parameters()).device))
    errors = GenerationTask(GenerationConfig()).errors(denoiser, part)
    figures = {"num_structures": float(len(structures))}
    figures |= {key.removeprefix("valid_"): value for key, value in errors.items() if key != "valid_loss"}
    if num_nll:
        rows = np.unique(np.linspace(0, len(structures) - 1, min(num_nll, len(structures))).round().astype(int))
        figures |= _likelihood(denoiser, part, torch.from_numpy(rows), nll_times, seed)
    return figures


def _likelihood(denoiser: Denoiser, part: MoleculePart, rows: torch.Tensor, times: int, seed: int) -> dict[str, float]:
    levels = denoiser.levels
    schedule = levels.schedule if isinstance(levels, Variational) else polynomial_schedule(NLL_STEPS)
    sizes = SizePrior(denoiser.sizes) if denoiser.sizes else None
    found: dict[str, list[torch.Tensor]] = {}
    for start in range(0, len(rows), NLL_BATCH):
        index = rows[start : start + NLL_BATCH]
        clean, _ = part.batch(index)
        cloud = Cloud(clean.cloud.pos, clean.cloud.feats, clean.cloud.ptr)
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + int(i)) for i in index]
        eps = eps_of_denoiser(denoiser, schedule)
        nll = estimate_nll(eps, cloud, schedule, denoiser.scaling, generators, times=times, sizes=sizes)
        for name, values in {"total": nll.total, **nll.terms()}.items():
            found.setdefault(name, []).append(values.double().cpu())
    joined = {name: torch.cat(values) for name, values in found.items()}
    seen = joined["total"].isfinite()  # a size that training never met has no likelihood
    out = {f"nll_{name}_nats": float(values[seen].mean()) for name, values in joined.items()}
    out["nll_standard_error_nats"] = float(joined["total"][seen].std() / max(1, int(seen.sum())) ** 0.5)
    return out | {"nll_molecules": float(seen.sum())}
