"""Whether molecules have the property that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from geomol.properties import PropertyModel
from geomol.train import properties_of
from geomol.train.generation_task import COUNTED

Measure = Callable[[Structures], Float[np.ndarray, " S"]]


@dataclass(frozen=True)
class AskedAndGot:
    """Mean absolute differences between the property asked for and the one of the molecules.

    Attributes:
        condition: the property.
        guidance: see `SampleSettings`.
        molecules: how many.
        mae: of the generated molecules.
        mae_of_measure: of the data themselves: how well the property is measured, the least that `mae` could be.
        mae_size_only: of the best guess from the number of atoms alone, the median of the data at that size.
        mae_random: of the value of another molecule of the data.
        molecule_stability: by the protocol edm.
    """

    condition: str
    guidance: float
    molecules: int
    mae: float
    mae_of_measure: float
    mae_size_only: float
    mae_random: float
    molecule_stability: float


@dataclass(frozen=True, eq=False)
class Wanted:
    """A property of known structures, and how it is measured on new ones.

    Attributes:
        structures: from which values and sizes are drawn together; not the training part, for a fair test.
        values: of the property.
        measure: its values for other structures.
    """

    structures: Structures
    values: Float[np.ndarray, " S"]
    measure: Measure


def counted(condition: str, structures: Structures) -> Wanted:
    """A property that follows from the molecules themselves (`COUNTED`), so that no second model has to be trusted.

    Raises:
        ConfigError: one that cannot be counted.
    """
    if condition not in COUNTED:
        raise ConfigError(
            f'"{condition}" cannot be read off a molecule', remedy=f"give a predictor; {nearest(condition, COUNTED)}"
        )
    return Wanted(structures, COUNTED[condition](structures), COUNTED[condition])


def predicted(
    condition: str, structures: Structures, values: Float[np.ndarray, " S"], predictor: PropertyModel
) -> Wanted:
    """A property that another model measures; structures without a value are left out.

    Raises:
        ConfigError: the model predicts something else.
    """
    names = [target.name for target in predictor.targets]
    if condition not in names:
        raise ConfigError("the predictor does not know this property", expected=condition, got=", ".join(names))
    known = np.flatnonzero(np.isfinite(values))

    def measure(molecules: Structures) -> Float[np.ndarray, " S"]:
        return list(properties_of(predictor, molecules).values())[names.index(condition)]

    return Wanted(structures.subset(known), values[known], measure)


def asked_and_got(
    denoiser: Denoiser,
    wanted: Wanted,
    *,
    condition: str,
    num: int,
    guidances: Sequence[float],
    settings: SampleSettings,
    seed: int = 0,
) -> list[AskedAndGot]:
    """Asks for values and sizes drawn together from data, and measures what comes out.

    Protocol and baselines of Hoogeboom et al., ICML 2022 (arXiv:2203.17003), section 5.3.

    Args:
        denoiser: trained with this condition.
        wanted: the property, see `counted` and `predicted`.
        condition: its name.
        num: molecules for each guidance.
        guidances: weights of the condition; 0 does without it.
        settings: how molecules are made.
        seed: of all.

    Raises:
        ConfigError: a condition that the model was not trained on.
    """
    if condition not in denoiser.conditions:
        raise ConfigError(
            f'the model was not trained on "{condition}"', expected=", ".join(denoiser.conditions) or "none"
        )
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(wanted.structures), size=num)
    values, sizes = wanted.values, wanted.structures.n_atoms
    asked = values[rows]
    requests = [
        Request(int(sizes[row]), molecule_seed(seed, i), context={condition: float(values[row])})
        for i, row in enumerate(rows)
    ]
    random_error = float(np.abs(asked - values[rng.integers(len(values), size=num)]).mean())
    measured_error = float(np.abs(asked - wanted.measure(wanted.structures.subset(rows))).mean())
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
        got = wanted.measure(molecules.structures)
        stable = score(molecules, edm_protocol).shares["molecule_stability"].value
        error = float(np.abs(asked - got).mean())
        found.append(AskedAndGot(condition, guidance, num, error, measured_error, size_error, random_error, stable))
    return found


def _medians(values: Float[np.ndarray, " S"], sizes: Int[np.ndarray, " S"]) -> Float[np.ndarray, " K"]:
    """Median value of the structures of each size; NaN for sizes that do not occur."""
    out = np.full(int(sizes.max()) + 1, np.nan)
    for size in np.unique(sizes):
        out[size] = np.median(values[sizes == size])
    return out
