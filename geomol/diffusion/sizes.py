"""How many atoms a molecule has: the histogram of a training set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError


class SizePrior:
    """The empirical distribution of the number of atoms, p(n) = count of n / count of all.

    Args:
        counts: how many molecules have n atoms, for every n that occurs.

    Raises:
        ConfigError: no molecules, negative counts, or sizes below one.
    """

    def __init__(self, counts: Mapping[int, int]) -> None:
        self.counts = {int(n): int(counts[n]) for n in sorted(counts)}
        if any(n < 1 or c < 0 for n, c in self.counts.items()) or sum(self.counts.values()) == 0:
            raise ConfigError("a prior of sizes needs counts of molecules with at least one atom")
        self._sizes = torch.tensor(list(self.counts))
        weights = torch.tensor(list(self.counts.values()), dtype=torch.float64)
        self._probs = weights / weights.sum()

    @classmethod
    def from_sizes(cls, sizes: Sequence[int] | Int[Tensor, " M"]) -> SizePrior:
        """The histogram of molecules with so many atoms each."""
        return cls(Counter(torch.as_tensor(sizes).tolist()))

    def log_prob(self, sizes: Int[Tensor, " G"]) -> Float[Tensor, " G"]:
        """ln p(n), float64; −∞ for a size that never occurred."""
        table = torch.full((int(self._sizes[-1]) + 2,), -torch.inf, dtype=torch.float64, device=sizes.device)
        table[self._sizes.to(sizes.device)] = self._probs.log().to(sizes.device)
        return table[sizes.clamp(0, len(table) - 1)]

    def sample(self, num: int, generator: torch.Generator) -> Int[Tensor, " {num}"]:
        """Numbers of atoms, on the CPU, from a CPU generator."""
        return self._sizes[torch.multinomial(self._probs, num, replacement=True, generator=generator)]

    @property
    def entropy(self) -> float:
        """Nats."""
        seen = self._probs[self._probs > 0]
        return -float((seen * seen.log()).sum())
