"""The trunk of Rapidash: blocks at every scale, and transitions between scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.models.ponita_kernels import BasisValues
from geomol.models.rapidash_kernels import PoseBasis, Told
from geomol.models.rapidash_layers import RapidashBlock
from geomol.models.rapidash_scales import Linked, Scale


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks have in common; see `Rapidash`."""

    widening: int
    layer_scale: float | None
    activation: str
    norm: bool
    pre_linear: bool


class RapidashUNet(nn.Module):
    """Blocks at each scale on the way down and, if it comes back, at all but the last on the way up.

    x_{s+1} = down(blocks(x_s)),  x_s ← blocks′(x_s + up(x_{s+1})).

    Args:
        new_basis: makes the basis of a scale; called once if `global_basis`.
        widths: channels of each scale.
        depths: blocks of each scale.
        comes_back: whether features return to all points by transitions; otherwise they stay at the coarsest.
        settings: of all blocks.
        global_basis: one basis for all scales.
        envelope: whether kernels vanish at the cutoff of a scale.
    """

    def __init__(
        self,
        new_basis: Callable[[], PoseBasis],
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        comes_back: bool,
        settings: BlockSettings,
        global_basis: bool,
        envelope: bool,
    ) -> None:
        super().__init__()
        self.comes_back, self.envelope, self.settings = comes_back, envelope, settings
        self.bases = nn.ModuleList(new_basis() for _ in range(1 if global_basis else len(widths)))
        self.blocks = nn.ModuleList(self._stack(s, widths[s], depths[s]) for s in range(len(widths)))
        steps = range(len(widths) - 1)
        self.downs = nn.ModuleList(self._block(s, widths[s], widths[s + 1]) for s in steps)
        back = steps if comes_back else ()
        self.ups = nn.ModuleList(self._block(s, widths[s + 1], widths[s]) for s in back)
        self.up_blocks = nn.ModuleList(self._stack(s, widths[s], depths[s]) for s in back)
        self.num_features = widths[0] if comes_back else widths[-1]

    def _basis(self, scale: int) -> PoseBasis:
        return cast(PoseBasis, self.bases[scale % len(self.bases)])

    def _block(self, scale: int, width: int, out: int | None = None) -> RapidashBlock:
        s = self.settings
        return RapidashBlock(
            channels=width,
            basis=self._basis(scale),
            widening=s.widening,
            layer_scale=s.layer_scale,
            activation=s.activation,
            norm=s.norm,
            pre_linear=s.pre_linear,
            out_channels=out,
        )

    def _stack(self, scale: int, width: int, depth: int) -> nn.ModuleList:
        return nn.ModuleList(self._block(scale, width) for _ in range(depth))

    def _values(
        self, s: int, link: Linked, node: Int[Tensor, " M"] | None, ori: Tensor | None, level: Tensor | None
    ) -> BasisValues:
        """Basis on the edges of a scale, or without `node` of a transition."""
        told = None
        if level is not None:
            told = Told(level[link.row], level[link.row if node is None else node])
        cutoff = link.cutoff if self.envelope else float("inf")
        values: BasisValues = self._basis(s)(link.vec, ori, cutoff=cutoff, told=told, between_sets=node is None)
        return values

    def forward(
        self,
        x: Float[Tensor, "N *O C"],
        scales: Sequence[Scale],
        ori: Float[Tensor, "O 3"] | None,
        level: Float[Tensor, "N 1"] | None = None,
        *,
        calibrate: bool = False,
    ) -> Float[Tensor, "M *O D"]:
        """Features of all points, or where they do not come back, of the coarsest ones.

        Args:
            x: embedded inputs.
            scales: points and edges of each scale.
            ori: grid of directions, if any.
            level: noise level that kernels are told.
            calibrate: rescale the kernels of an untrained network on the way.
        """

        def through(blocks: Iterable[nn.Module], x: Tensor, values: BasisValues | None, link: Linked | None) -> Tensor:
            if values is None or link is None:
                return x
            for block in cast(Iterable[RapidashBlock], blocks):
                if calibrate:
                    block.calibrate(x, values, link.edges)
                x = block(x, values, link.edges)
            return x

        within = [
            None if scale.within is None else self._values(s, scale.within, scale.node, ori, level)
            for s, scale in enumerate(scales)
        ]
        passed: list[Tensor] = []
        for s, scale in enumerate(scales):
            x = through(cast(nn.ModuleList, self.blocks[s]), x, within[s], scale.within)
            if scale.down is not None:
                passed.append(x)
                x = through([self.downs[s]], x, self._values(s, scale.down, None, ori, level), scale.down)
        for s in reversed(range(len(passed)) if self.comes_back else ()):
            scale = scales[s]
            assert scale.up is not None
            x = passed[s] + through([self.ups[s]], x, self._values(s, scale.up, None, ori, level), scale.up)
            x = through(cast(nn.ModuleList, self.up_blocks[s]), x, within[s], scale.within)
        return x
