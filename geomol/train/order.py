"""The order in which an epoch runs through structures of many sizes."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

SORTED_BATCHES = 64  # so many batches are sorted by size together: structures of one size meet, in ever new company
_LARGER_THAN_ANY_SIZE = 1_000_000_000


def by_size(sizes: Int[Tensor, " S"], generator: torch.Generator, batch_size: int) -> Int[Tensor, " S"]:
    """A random permutation in which the structures of a batch are of nearly one size, so that little is padded.

    Every structure comes once; batches come in random order; it depends on the generator alone.
    """
    order = torch.randperm(len(sizes), generator=generator)
    sizes = sizes.cpu()[order]
    blocks = torch.arange(len(order)) // (batch_size * SORTED_BATCHES)
    # a stable sort within each block, ties in random order
    order = order[torch.argsort(blocks * _LARGER_THAN_ANY_SIZE + sizes, stable=True)]
    whole = len(order) // batch_size
    batches = order[: whole * batch_size].view(whole, batch_size)
    return torch.cat([batches[torch.randperm(whole, generator=generator)].flatten(), order[whole * batch_size :]])
