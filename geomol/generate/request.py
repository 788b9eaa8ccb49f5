"""What is asked for: how many atoms, which elements, which property, around which fragment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Float, Int

from geomol.errors import ConfigError, InputError

MOST_ATOMS = 10_000  # in a formula: beyond it is a slip of the keyboard
_PART = re.compile(r"([A-Z][a-z]?)(\d*)")


@dataclass(frozen=True, eq=False)
class Scaffold:
    """Atoms that stay where they are while others grow around them.

    Attributes:
        numbers: their elements.
        pos: their positions, Å.
        name: where they come from.
    """

    numbers: Int[np.ndarray, " M"]
    pos: Float[np.ndarray, "M 3"]
    name: str = "scaffold"


@dataclass(frozen=True, eq=False)
class Lead:
    """A molecule to look around: noise is added to it and taken away again.

    Attributes:
        numbers, pos: the molecule, Å.
        level: size of the noise, Å; a tenth of an Ångström moves atoms, a whole one changes the molecule.
    """

    numbers: Int[np.ndarray, " N"]
    pos: Float[np.ndarray, "N 3"]
    level: float


@dataclass(frozen=True, eq=False)
class Request:
    """One molecule to be made.

    Attributes:
        size: number of atoms.
        seed: of all its random numbers; the same molecule comes out whatever it is batched with.
        numbers: its elements in order, where the formula is given.
        context: wanted values of the model's conditions, NaN for any.
        scaffold: atoms to build around, the first of the molecule.
        lead: molecule to start from.
    """

    size: int
    seed: int
    numbers: Int[np.ndarray, " N"] | None = None
    context: Mapping[str, float] = field(default_factory=dict)
    scaffold: Scaffold | None = None
    lead: Lead | None = None


def parse_formula(text: str) -> Int[np.ndarray, " N"]:
    """Atomic numbers of "C7H10O2", heavy atoms first.

    Raises:
        ConfigError: no formula.
    """
    parts = _PART.findall(text)
    if not text or "".join(a + b for a, b in parts) != text or any(symbol not in atomic_numbers for symbol, _ in parts):
        raise ConfigError("not a chemical formula", expected="such as C7H10O2", got=f'"{text}"')
    if sum(int(count or 1) for _, count in parts) > MOST_ATOMS:
        raise ConfigError(f"a formula of more than {MOST_ATOMS} atoms", got=f'"{text}"')
    numbers = [atomic_numbers[symbol] for symbol, count in parts for _ in range(int(count or 1))]
    if not numbers:
        raise ConfigError("the formula has no atoms", got=f'"{text}"')
    return np.array(sorted(numbers, key=lambda z: (z == 1, z)), dtype=np.int64)


def parse_sizes(text: str, known: Mapping[int, float]) -> dict[int, float]:
    """Sizes with their weights: "prior" (as in training), "18", or "15-20" (as in training, between these).

    Raises:
        ConfigError: another word, or no such size in the training set.
    """
    if text == "prior":
        if not known:
            raise ConfigError("the model does not know how large its molecules were", remedy="give --n-atoms")
        return dict(known)
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None:
        raise ConfigError("not a number of atoms", expected='"prior", "18" or "15-20"', got=f'"{text}"')
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high:
        raise ConfigError("not a range of sizes", expected="1 or more, ascending", got=f'"{text}"')
    if low == high:
        return {low: 1}
    inside = {size: count for size, count in known.items() if low <= size <= high}
    return inside or dict.fromkeys(range(low, high + 1), 1)


def make_requests(
    num: int,
    *,
    seed: int,
    sizes: Mapping[int, float],
    numbers: Int[np.ndarray, " N"] | None = None,
    context: Mapping[str, float] | None = None,
    scaffold: Scaffold | None = None,
    lead: Lead | None = None,
) -> list[Request]:
    """`num` requests with seeds of their own; the size of each follows from its seed alone.

    Args:
        num: how many.
        seed: of the whole; request i has a seed that follows from it and i, so a longer list begins with a shorter one.
        sizes: weights of the numbers of atoms, of all atoms with a scaffold included.
        numbers: elements, which fix the size.
        context, scaffold, lead: see `Request`.

    Raises:
        InputError: a scaffold with as many atoms as the molecule, or more.
    """
    if num < 1:
        raise ConfigError("the number of molecules must be positive", got=str(num))
    if not sizes and numbers is None and lead is None:
        raise ConfigError("no sizes to choose from")
    values, weights = np.array(list(sizes)), np.array(list(sizes.values()), dtype=np.float64)
    if scaffold is not None and numbers is None and lead is None:
        fitting = values > len(scaffold.numbers)
        if not fitting.any():
            raise InputError(
                "the scaffold leaves no atoms to be made",
                where=scaffold.name,
                expected=f"fewer than {int(values.max())} atoms",
                got=str(len(scaffold.numbers)),
                remedy="ask for more with --n-atoms",
            )
        values, weights = values[fitting], weights[fitting]
    requests = []
    for i in range(num):
        own = molecule_seed(seed, i)
        if lead is not None:
            size = len(lead.numbers)
        elif numbers is not None:
            size = len(numbers)
        else:
            size = int(np.random.default_rng(own).choice(values, p=weights / weights.sum()))
        requests.append(Request(size, own, numbers, dict(context or {}), scaffold, lead))
    return requests


def molecule_seed(seed: int, number: int) -> int:
    """The seed of molecule `number` of a run."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def contexts(requests: Sequence[Request], names: Sequence[str]) -> Float[np.ndarray, "R C"]:
    """Wanted values in the order of the model's conditions, NaN where none is."""
    return np.array([[r.context.get(name, np.nan) for name in names] for r in requests], dtype=np.float64)
