"""From features of nodes to outputs of whole structures, in either order of pooling and readout."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.models.base import Features
from geomol.models.deep_sets import POOLS
from geomol.ops import segment_mean, segment_sum

ORDERS = ("readout_then_pool", "pool_then_readout")


class PooledHead(nn.Module):
    """Invariants of structures from features of their nodes; vectors are pooled as they are.

    "readout_then_pool" is the order of the authors' generator, "pool_then_readout" that of their regression. With a
    linear readout and the sum they differ only in whether the bias counts once or once per node; with a hidden layer,
    "readout_then_pool" with "sum" is extensive, the other is not.

    Args:
        channels: scalars per node that a backbone gives (`Rapidash(readout="none")`: its `num_features`).
        out_scalars: numbers per structure.
        hidden: width of a hidden layer; 0 for a linear readout.
        pool: "sum", "mean", or of scalars "max".
        order: see above.

    Raises:
        ConfigError: unknown pool or order.
    """

    def __init__(
        self,
        *,
        channels: int,
        out_scalars: int = 1,
        hidden: int = 0,
        pool: Literal["sum", "mean", "max"] = "sum",
        order: Literal["readout_then_pool", "pool_then_readout"] = "pool_then_readout",
    ) -> None:
        super().__init__()
        for name, value, known in (("pool", pool, tuple(POOLS)), ("order", order, ORDERS)):
            if value not in known:
                raise ConfigError(f"unknown {name}", expected=" or ".join(known), got=str(value))
        self.pool, self.order = pool, order
        self.read: nn.Module = nn.Linear(channels, out_scalars)
        if hidden:
            self.read = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, out_scalars))

    def forward(
        self, features: Features, ptr: Int[Tensor, " P"]
    ) -> tuple[Float[Tensor, "G S"], Float[Tensor, "G V 3"] | None]:
        """Invariants, and vectors where the backbone gives some: their mean for "mean", otherwise their sum."""
        pool, x = POOLS[self.pool], features.scalars
        scalars = pool(self.read(x), ptr) if self.order == "readout_then_pool" else self.read(pool(x, ptr))
        if features.vectors is None:
            return scalars, None
        return scalars, (segment_mean if self.pool == "mean" else segment_sum)(features.vectors, ptr)
