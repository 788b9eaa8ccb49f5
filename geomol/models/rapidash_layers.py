"""Rapidash's one kind of layer: PONITA's block, within a scale or from one scale to the next."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.models.ponita import PonitaBlock
from geomol.models.ponita_kernels import BasisValues
from geomol.models.rapidash_kernels import PoseBasis
from geomol.ops import Edges, gather_senders, sum_to_receivers


class RapidashBlock(PonitaBlock):
    """ConvNeXt block within one scale, or (with `out_channels`) a transition to other points, without residual.

    Args:
        channels: width of what it reads.
        basis: of its kernels.
        widening: inner width of the pointwise network, in units of C.
        layer_scale: initial gain (None: no gain).
        activation: "gelu" or "silu".
        norm: LayerNorm.
        pre_linear: mix channels before the convolution.
        out_channels: width of what a transition gives; None within a scale.
    """

    def __init__(
        self,
        *,
        channels: int,
        basis: PoseBasis,
        widening: int,
        layer_scale: float | None,
        activation: str,
        norm: bool,
        pre_linear: bool,
        out_channels: int | None = None,
    ) -> None:
        super().__init__(
            channels=channels,
            basis=basis,
            widening=widening,
            layer_scale=layer_scale if out_channels is None else None,
            activation=activation,
            norm=norm,
        )
        self.pre_linear = nn.Linear(channels, channels, bias=False) if pre_linear else None
        self.is_transition = out_channels is not None
        if out_channels is not None:
            self.linear_2 = nn.Linear(widening * channels, out_channels)

    def convolve(self, x: Float[Tensor, "N *O C"], basis: BasisValues, graph: Edges) -> Float[Tensor, "M *O C"]:
        """Σ over senders with the spatial kernel, a node itself included where the basis says so."""
        x = x if self.pre_linear is None else self.pre_linear(x)
        if not self.is_transition:
            return self.spatial.convolve(x, basis, graph)
        # one edge for each point of the finer scale: no more messages than points
        kernel, _ = self.spatial.on_edges(basis)
        return sum_to_receivers(gather_senders(x, graph) * kernel, graph)

    def forward(self, x: Float[Tensor, "N *O C"], basis: BasisValues, graph: Edges) -> Float[Tensor, "M *O D"]:
        y = self.pointwise(self.mix_orientations(self.convolve(x, basis, graph), basis))
        return y if self.is_transition else x + y

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "N *O C"], basis: BasisValues, graph: Edges) -> None:
        """Scales both kernels so that each convolution keeps the standard deviation of its input, where it has one."""
        y = self.convolve(x, basis, graph)
        if bool(x.std() > 0) and bool(y.std() > 0):
            self.spatial.rescale(x.std() / y.std())
        if self.fibre is None:
            return
        y = self.convolve(x, basis, graph)
        mixed = self.mix_orientations(y, basis)
        if bool(y.std() > 0) and bool(mixed.std() > 0):
            self.fibre.rescale(y.std() / mixed.std())
