"""Whether molecules have the property that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from geomol.data import Structures
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError, nearest
from geomol.generate.driver import sample
from geomol.generate.protocols import edm_protocol
from geomol.generate.request import Request, molecule_seed
from geomol.generate.results import to_molecules
from geomol.generate.sampling import SampleSettings
from geomol.generate.score import score
from geomol.train.generation_task import COUNTED


@dataclass(frozen=True)
class AskedAndGot:
    """Mean absolute differences between the property asked for and the one of the molecules.

    Attributes:
        condition: the property.
        guidance: see `SampleSettings`.
        molecules: how many.
        mae: of the generated molecules.
        mae_size_only: of the best guess from the number of atoms alone, the median of the data at that size.
        mae_random: of the value of another molecule of the data.
        molecule_stability: by the protocol edm.
    """

    condition: str
    guidance: float
    molecules: int
    mae: float
    mae_size_only: float
    mae_random: float
    molecule_stability: float


def asked_and_got(
    denoiser: Denoiser,
    structures: Structures,
    *,
    condition: str,
    num: int,
    guidances: Sequence[float],
    settings: SampleSettings,
    seed: int = 0,
) -> list[AskedAndGot]:
    """Asks for values and sizes drawn together from data, and measures what comes out.

    Protocol and baselines of Hoogeboom et al., ICML 2022 (arXiv:2203.17003), section 5.3. The property must follow from
    the molecule itself (`COUNTED`), so that no second model has to be trusted.

    Args:
        denoiser: trained with this condition.
        structures: from which values and sizes are drawn; not the training part, for a fair test.
        condition: its name.
        num: molecules for each guidance.
        guidances: weights of the condition; 0 does without it.
        settings: how molecules are made.
        seed: of all.

    Raises:
        ConfigError: a condition that the model was not trained on, or one that cannot be counted.
    """
    if condition not in denoiser.conditions:
        raise ConfigError(
            f'the model was not trained on "{condition}"', expected=", ".join(denoiser.conditions) or "none"
        )
    if condition not in COUNTED:
        raise ConfigError(f'"{condition}" cannot be read off a molecule', remedy=nearest(condition, COUNTED))
    count = COUNTED[condition]
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(structures), size=num)
    values, sizes = count(structures), structures.n_atoms
    asked = values[rows]
    requests = [
        Request(int(sizes[row]), molecule_seed(seed, i), context={condition: float(values[row])})
        for i, row in enumerate(rows)
    ]
    random_error = float(np.abs(asked - values[rng.integers(len(values), size=num)]).mean())
    size_error = float(np.abs(asked - _medians(values, sizes)[sizes[rows]]).mean())
    found = []
    for guidance in guidances:
        chosen = SampleSettings(
            sampler=settings.sampler,
            steps=settings.steps,
            churn=settings.churn,
            guidance=guidance,
            batch_size=settings.batch_size,
        )
        molecules = to_molecules(sample(denoiser, requests, chosen))
        got = count(molecules.structures)
        stable = score(molecules, edm_protocol).shares["molecule_stability"].value
        error = float(np.abs(asked - got).mean())
        found.append(AskedAndGot(condition, guidance, num, error, size_error, random_error, stable))
    return found


def _medians(values: Float[np.ndarray, " S"], sizes: Int[np.ndarray, " S"]) -> Float[np.ndarray, " K"]:
    """Median value of the structures of each size; NaN for sizes that do not occur."""
    out = np.full(int(sizes.max()) + 1, np.nan)
    for size in np.unique(sizes):
        out[size] = np.median(values[sizes == size])
    return out
