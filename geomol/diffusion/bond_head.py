"""Bond orders of pairs of atoms, told from their features and distance."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.ops import gather_rows, segment_index

NUM_ORDERS = 4  # none, single, double, triple
_NUM_RADIAL = 16
_SPACING = 0.08  # of the radial functions, in units of the coordinates


def pairs_of(ptr: Int[Tensor, " P"]) -> Int[Tensor, "2 B"]:
    """All pairs i < j of nodes of one structure."""
    num_nodes = int(ptr[-1])
    owner = segment_index(ptr, num_nodes)
    node = torch.arange(num_nodes, device=ptr.device)
    later = ptr[owner + 1] - node - 1
    first = torch.repeat_interleave(node, later)
    before = torch.nn.functional.pad(later.cumsum(0), (1, 0))[:-1]
    second = torch.arange(len(first), device=ptr.device) - before[first] + first + 1
    return torch.stack([first, second])


class BondHead(nn.Module):
    """Logits of orders 0-3 from W (a_i ∘ a_j, a_i + a_j, radial functions of the distance): symmetric in the pair.

    Trained beside the denoiser and never diffused (see JODO, MiDi for the opposite): molecules come with bonds that can
    be held against those that their geometry implies.
    """

    centres: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("centres", 0.4 + _SPACING * torch.arange(_NUM_RADIAL), persistent=False)
        self.hidden = nn.Linear(2 * channels + _NUM_RADIAL, 2 * channels)
        self.out = nn.Linear(2 * channels, NUM_ORDERS)

    def forward(
        self, feats: Float[Tensor, "N H"], pos: Float[Tensor, "N 3"], pairs: Int[Tensor, "2 B"]
    ) -> Float[Tensor, "B 4"]:
        a, b = gather_rows(feats, pairs[0]), gather_rows(feats, pairs[1])
        vec = gather_rows(pos, pairs[0]) - gather_rows(pos, pairs[1])
        length = (vec.square().sum(1, keepdim=True) + 1e-12).sqrt()
        radial = torch.exp(-((length - self.centres) / _SPACING).square() / 2)
        out: Tensor = self.out(torch.nn.functional.silu(self.hidden(torch.cat([a * b, a + b, radial], dim=1))))
        return out
