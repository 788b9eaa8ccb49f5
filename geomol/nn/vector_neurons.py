"""Vector neurons: layers whose channels are vectors, which turn with the input.

Features are (..., C, 3): C vectors per node (or per edge). Every layer commutes with x → x Rᵀ for any orthogonal R.
Source: Deng et al., ICCV 2021 (arXiv:2104.12229); offsets and the placing of the norm as in the authors' code.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_TINY_SQUARE = 1e-30  # under the root: a finite gradient at the zero vector
_OFFSET = 1e-6  # added to norms and squared norms before division, as in the authors' code


class VNLinear(nn.Module):
    """y_o = Σ_c W_oc x_c. There is no bias: a constant vector would not turn with the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_channels)  # the start of `nn.Linear`
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "*N C 3"]) -> Float[Tensor, "*N D 3"]:
        # one product for all vectors; as a broadcast W @ x it would be a tiny product for each node
        return nn.functional.linear(x.mT, self.weight).mT


class VNBatchNorm(nn.Module):
    """Batch norm of the lengths of the vectors; directions stay.

    In training the statistics are those of the batch, so structures feel each other; in evaluation they do not.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lengths = nn.BatchNorm1d(channels)

    def forward(self, x: Float[Tensor, "*N C 3"]) -> Float[Tensor, "*N C 3"]:
        length = (x.square().sum(-1) + _TINY_SQUARE).sqrt() + _OFFSET  # several times faster than `vector_norm`
        scaled: Tensor = self.lengths(length.flatten(0, -2)).view(length.shape)
        out: Tensor = x * (scaled / length)[..., None]
        return out


class VNReLU(nn.Module):
    """Takes off each vector the part against a learned direction: x − (1 − slope) min(x·k, 0) k / |k|², k = W x.

    Args:
        channels: of the vectors that are cut.
        in_channels: of the vectors that the directions are made from; None: the same vectors.
        slope: part of the cut component that stays; 0 is the ReLU.
        shared: one direction for all channels.
    """

    def __init__(
        self, channels: int, *, in_channels: int | None = None, slope: float = 0.2, shared: bool = False
    ) -> None:
        super().__init__()
        self.slope = slope
        self.direction = VNLinear(in_channels or channels, 1 if shared else channels)

    def forward(
        self, x: Float[Tensor, "*N C 3"], source: Float[Tensor, "*N B 3"] | None = None
    ) -> Float[Tensor, "*N C 3"]:
        """Cuts `x` by directions made from `source` (from `x` itself where it is None)."""
        return self.cut(x, self.direction(x if source is None else source))

    def cut(self, x: Float[Tensor, "*N C 3"], k: Float[Tensor, "*N D 3"]) -> Float[Tensor, "*N C 3"]:
        """Takes off what points against the directions k."""
        against = (x * k).sum(-1, keepdim=True).clamp(max=0)
        return x - (1 - self.slope) * against / (k.square().sum(-1, keepdim=True) + _OFFSET) * k


class VNLinearReLU(nn.Module):
    """Linear map, norm of the lengths, and a ReLU whose directions come from the input of the linear map."""

    def __init__(self, in_channels: int, out_channels: int, *, slope: float = 0.2, shared: bool = False) -> None:
        super().__init__()
        self.linear = VNLinear(in_channels, out_channels)
        self.norm = VNBatchNorm(out_channels)
        self.relu = VNReLU(out_channels, in_channels=in_channels, slope=slope, shared=shared)

    def forward(self, x: Float[Tensor, "*N C 3"]) -> Float[Tensor, "*N D 3"]:
        out: Tensor = self.relu(self.norm(self.linear(x)), x)
        return out

    def on_pairs(self, x: Float[Tensor, "N C 3"], near: Int[Tensor, "N k"]) -> Float[Tensor, "N k D 3"]:
        """The layer on [x_j − x_i, x_i] for the k neighbours j of each node i.

        Linear maps are applied per node, W [x_j − x_i, x_i] = A x_j + (B − A) x_i, which is the same for a k-th of the
        work.
        """
        mixed, direction = (_on_pairs(part.weight, x, near) for part in (self.linear, self.relu.direction))
        return self.relu.cut(self.norm(mixed), direction)


def _on_pairs(weight: Tensor, x: Tensor, near: Tensor) -> Tensor:
    a, b = weight.chunk(2, dim=1)
    per_node = nn.functional.linear(x.mT, torch.cat([a, b - a])).mT
    sender, receiver = per_node.chunk(2, dim=1)
    return sender[near] + receiver[:, None]


class VNMaxPool(nn.Module):
    """Of K candidates per channel, the vector that reaches farthest along its own learned direction.

    The choice jumps where two candidates reach equally far.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.direction = VNLinear(channels, channels)

    def reach(self, x: Float[Tensor, "*N C 3"]) -> Float[Tensor, "*N C"]:
        """How far each vector reaches along its direction."""
        reach: Tensor = (x * self.direction(x)).sum(-1)
        return reach

    def forward(self, x: Float[Tensor, "N K C 3"]) -> Float[Tensor, "N C 3"]:
        best = self.reach(x).argmax(1)[:, None, :, None]
        return x.gather(1, best.expand(-1, 1, -1, 3))[:, 0]


class VNMeanPool(nn.Module):
    """Mean over K candidates."""

    def forward(self, x: Float[Tensor, "N K C 3"]) -> Float[Tensor, "N C 3"]:
        return x.mean(1)


class VNInvariants(nn.Module):
    """Scalar products with a learned triad: x_c · z_k with three vectors z = z(x) per node, so 3 C invariants.

    The triad is not orthogonalised; the products are invariant under reflections too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = VNLinearReLU(channels, channels // 2)
        self.second = VNLinearReLU(channels // 2, channels // 4)
        self.last = VNLinear(channels // 4, 3)

    def forward(self, x: Float[Tensor, "N C 3"]) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N 3 3"]]:
        """The invariants, and the triad (rows), with which more of them can be made."""
        triad: Tensor = self.last(self.second(self.first(x)))
        return (x @ triad.mT).flatten(1), triad
