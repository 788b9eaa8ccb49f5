"""How well a denoiser denoises structures that it was not trained on, and how likely it finds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.data import Clouds, Structures, draw_rotations
from geomol.data.cloud_categories import check_points
from geomol.diffusion import (
    Clean,
    Cloud,
    Denoiser,
    SizePrior,
    Variational,
    eps_of_denoiser,
    estimate_nll,
    polynomial_schedule,
)
from geomol.errors import ConfigError, InputError
from geomol.train.cloud_generation import CloudGenerationTask, CloudShapes
from geomol.train.generation_task import GenerationTask, MoleculePart
from geomol.train.sections import GenerationConfig
from geomol.train.tasks import seeded

NLL_STEPS = 1000  # as EDM
NLL_BATCH = 100
USUAL_POINTS = 512  # of clouds, for a denoiser that does not say


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


def evaluate_clouds(denoiser: Denoiser, clouds: Clouds, *, num_points: int | None = None) -> dict[str, float]:
    """Denoising errors on all clouds, in the pose that they have and in random ones; the points follow a fixed seed.

    The errors are those of training and its validation, see `CloudGenerationTask`: `positions` is the weighted square
    error over the levels that the model was trained at, `positions_low` that at levels below `LOW_LEVEL`. In random
    poses (rotations of SO(3), "_so3") the same points meet the same levels. The noise is not turned along: figures of
    an equivariant model agree within its scatter. A model that is told the pose is told the turned one.

    Args:
        denoiser: of points without elements, in evaluation mode.
        clouds: to be denoised.
        num_points: of each; as many as the model was trained with by default.

    Raises:
        ConfigError: a denoiser of molecules, or clouds of too few points.
    """
    if denoiser.elements:
        raise ConfigError("a denoiser of molecules cannot judge point clouds", where=clouds.name)
    points = num_points or max(denoiser.sizes, default=USUAL_POINTS)
    check_points(clouds, points)
    settings = GenerationConfig(num_points=points, frame=denoiser.frame)
    device = str(next(denoiser.parameters()).device)
    task = CloudGenerationTask(settings)
    figures = {"num_clouds": float(len(clouds)), "points_per_cloud": float(points)}
    for suffix, kind in (("", CloudShapes), ("_so3", TurnedShapes)):
        part = kind(clouds, settings, denoiser.length_unit, device, denoiser.dtype)
        errors = task.errors(denoiser, part)
        figures[f"positions{suffix}"] = errors["valid_loss"]
        figures[f"positions_low{suffix}"] = errors["valid_positions_low"]
    return figures


@dataclass(frozen=True, eq=False)
class TurnedShapes(CloudShapes):
    """Clouds in random poses, drawn apart from the process-wide generator: points and noise are those of their own."""

    def batch(self, index: Int[Tensor, " B"], rotation: Float[Tensor, "B 3 3"] | None = None) -> tuple[Clean, None]:
        turn = draw_rotations("so3", len(index), generator=seeded(int(index[0]), len(index)))
        return super().batch(index, turn if rotation is None else rotation.double().cpu() @ turn)


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
