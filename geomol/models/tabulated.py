"""What stands in for learned functions of a pair's pose once they are tables, see `geomol.models.tables`.

Tables follow from the weights of the model that they stand for, and are no part of the state that is saved or compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol.models.faenet_inputs import EdgeEmbedding
from geomol.models.ponita_kernels import BasisValues, FibreKernel, Kernel
from geomol.nn import polynomial_envelope, safe_norm
from geomol.ops import Edges, SplineGrid, tabulated_conv

Attributes = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class TabulatedValues(BasisValues):
    """Where kernels are read: `spatial` holds the attributes, (E, [O,] A), and `window` that of each edge."""

    window: Tensor | None = None


class TabulatedBasis(nn.Module):
    """Attributes of pairs, which tables are read at, instead of basis functions.

    Args:
        attributes: of edge vectors and directions.
        cutoff: Å.
        windowed: whether kernels vanish at the cutoff.
    """

    def __init__(self, attributes: Attributes, *, cutoff: float, windowed: bool) -> None:
        super().__init__()
        self.attributes, self.cutoff, self.windowed = attributes, cutoff, windowed

    def forward(
        self,
        vec: Float[Tensor, "E 3"],
        ori: Float[Tensor, "O 3"] | None,
        *,
        cutoff: float = math.inf,
        told: None = None,
        between_sets: bool = False,
    ) -> TabulatedValues:
        """The attributes. The rest is what `AttributeBasis` takes: at one scale with a cutoff, nothing new."""
        window = polynomial_envelope(safe_norm(vec) / self.cutoff) if self.windowed else torch.ones_like(vec[:, 0])
        return TabulatedValues(self.attributes(vec, ori), window=window)


class TabulatedKernel(Kernel):
    """A kernel as a table over the attributes of a pair, and its value for a node on itself."""

    table: Tensor
    at_zero: Tensor | None

    def __init__(self, grid: SplineGrid, table: Float[Tensor, "R C"], at_zero: Float[Tensor, " C"] | None) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("at_zero", at_zero, persistent=False)

    def rescale(self, factor: Tensor) -> None:
        self.table.mul_(factor)
        if self.at_zero is not None:
            self.at_zero.mul_(factor)

    def on_edges(self, values: BasisValues) -> tuple[Float[Tensor, "E *O C"], Float[Tensor, " C"] | None]:
        points = values.spatial
        kernel = self.grid.places(points.flatten(0, -2)).read(self.table).view(*points.shape[:-1], -1)
        return kernel * _window(values).view(-1, *[1] * (kernel.dim() - 1)), self.at_zero

    def convolve(self, x: Float[Tensor, "N *O C"], values: BasisValues, edges: Edges) -> Float[Tensor, "M *O C"]:
        """As `Kernel.convolve`, in one operator on a CPU, without the kernel of every edge in memory."""
        if x.is_cuda:
            return super().convolve(x, values, edges)
        has_orientations = x.dim() == 3
        nodes, points = (x, values.spatial) if has_orientations else (x[:, None], values.spatial[:, None])
        out = tabulated_conv(nodes, points, _window(values), self.table, self.grid, edges)
        out = out if has_orientations else out[:, 0]
        return out if self.at_zero is None else out + x * self.at_zero


def _window(values: BasisValues) -> Tensor:
    assert isinstance(values, TabulatedValues)
    assert values.window is not None
    return values.window


class ConstantKernel(FibreKernel):
    """The kernel between the directions of a grid, which no structure changes."""

    kernel: Tensor

    def __init__(self, kernel: Float[Tensor, "P O C"]) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel, persistent=False)

    def rescale(self, factor: Tensor) -> None:
        self.kernel.mul_(factor)

    def on_fibre(self, values: BasisValues) -> Float[Tensor, "P O C"]:
        return self.kernel


class TabulatedEdges(nn.Module):
    """`EdgeEmbedding` with the linear map of the Gaussians read from a table."""

    table: Tensor

    def __init__(self, edges: EdgeEmbedding, grid: SplineGrid, table: Float[Tensor, "R F"]) -> None:
        super().__init__()
        self.from_vector, self.second, self.grid = edges.from_vector, edges.second, grid
        self.register_buffer("table", table, persistent=False)

    def forward(self, vec: Float[Tensor, "E 3"]) -> tuple[Float[Tensor, "E F"], Float[Tensor, " E"]]:
        """As `EdgeEmbedding`."""
        length = safe_norm(vec)
        radial = self.grid.places(length[:, None]).read(self.table)
        feats = silu(torch.cat([self.from_vector(vec), radial], dim=1))
        return (feats if self.second is None else silu(self.second(feats))), length
