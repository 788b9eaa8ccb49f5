"""The denoiser: a backbone that is told the noise level and says what the clean structure was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.diffusion.bond_head import BondHead
from geomol.diffusion.cloud import Cloud, gaussian_cloud, zero_mean
from geomol.diffusion.levels import Levels, build_levels, levels_config
from geomol.errors import ConfigError
from geomol.graph import Graph, complete_graph
from geomol.models import Calibrated, Symmetry
from geomol.symmetry import backbone_config, build_backbone

PREDICTIONS = ("velocity", "noise", "clean")
TYPES = ("cross_entropy", "gaussian")


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a denoiser makes of noisy structures.

    Attributes:
        clean: expected clean structure; in units of the denoiser, features scaled as its inputs.
        logits: of the element of each node; None where elements are treated as continuous features.
        hidden: invariant features of the nodes from which bonds are told; None without a bond head.
    """

    clean: Cloud
    logits: Float[Tensor, "N K"] | None = None
    hidden: Float[Tensor, "N H"] | None = None


class Denoiser(nn.Module):
    """x̂(y, s): the expected clean structure behind y = x + s ε, with any backbone.

    Coordinates are in units of their standard deviation, elements one-hot times `type_scale`: with a small scale the
    elements of atoms stay undecided until the geometry exists (Hoogeboom et al. 2022, table 10: 47 → 82 % stable
    molecules). The backbone sees y / √(1 + s²), the scaled elements, ¼ ln s, the number of atoms and further
    conditions as node scalars, and, with self-conditioning, an earlier estimate: its element probabilities and the
    vector from each atom to its earlier clean place.

    With F the first vector per node, centred, x̂ = y/(1+s²) + F s/√(1+s²) ("velocity", the preconditioning of Karras
    et al. 2022 (arXiv:2206.00364), eq. 7 with σ_data = 1, and, up to a sign, the v of Salimans, Ho 2022,
    arXiv:2202.00512), x̂ = y − s F ("noise", as EDM), or x̂ = y/√(1+s²) + F ("clean").

    Symmetry: that of the backbone, taken together with translations: centroids are removed before and after.

    Args:
        backbone: any backbone of `geomol.symmetry.BACKBONES` with a vector per node and `out_scalars` scalars, see
            `fit_backbone`, which fills in its inputs and outputs.
        elements: atomic numbers that it makes; empty for clouds of points without features.
        levels: the noise process.
        prediction: "velocity", "noise" or "clean".
        types: "cross_entropy": the network names the element, x̂_h = type_scale · probabilities (needs fewer samples);
            "gaussian": elements are continuous features, predicted like coordinates.
        type_scale: of the one-hot elements.
        length_unit: standard deviation of the coordinates, Å.
        self_conditioning: whether earlier estimates are read (Chen et al. 2023, arXiv:2208.04202).
        bond_channels: features per node for bond orders; 0 for no bond head.
        conditions: names of further numbers per structure, with the mean and spread to standardise them.
        sizes: how many structures of each size it was trained on, from which sizes are drawn.

    Raises:
        ConfigError: unknown words, a scale that is not positive, or a condition whose values do not vary.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        elements: Sequence[int],
        levels: Levels,
        prediction: str = "velocity",
        types: str = "cross_entropy",
        type_scale: float = 0.25,
        length_unit: float = 1.72,
        self_conditioning: bool = True,
        bond_channels: int = 0,
        conditions: Mapping[str, Sequence[float]] | None = None,
        sizes: Mapping[int, int] | Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        for word, known in ((prediction, PREDICTIONS), (types, TYPES)):
            if word not in known:
                raise ConfigError(f'unknown setting "{word}"', expected=" or ".join(known))
        if not (type_scale > 0 and length_unit > 0):
            raise ConfigError("type_scale and length_unit must be positive", got=f"{type_scale} and {length_unit}")
        self.backbone, self.levels = backbone, levels
        self.elements = tuple(int(z) for z in elements)
        self.prediction, self.types = prediction, types
        self.type_scale, self.length_unit = type_scale, length_unit
        self.self_conditioning, self.bond_channels = self_conditioning, bond_channels
        self.conditions = {name: (float(mean), float(spread)) for name, (mean, spread) in (conditions or {}).items()}
        for name, (mean, spread) in self.conditions.items():
            if not (math.isfinite(mean) and 0 < spread < math.inf):
                raise ConfigError(f'the values of condition "{name}" do not vary', got=f"mean {mean}, spread {spread}")
        self.sizes = {int(size): int(count) for size, count in (sizes or {}).items()}
        self.bonds = BondHead(bond_channels) if bond_channels else None

    @property
    def num_types(self) -> int:
        return len(self.elements)

    @property
    def config(self) -> dict[str, object]:
        """Everything `from_config` needs to build an untrained copy."""
        return {
            "backbone": backbone_config(self.backbone),
            "elements": list(self.elements),
            "levels": levels_config(self.levels),
            "prediction": self.prediction,
            "types": self.types,
            "type_scale": self.type_scale,
            "length_unit": self.length_unit,
            "self_conditioning": self.self_conditioning,
            "bond_channels": self.bond_channels,
            "conditions": {name: list(pair) for name, pair in self.conditions.items()},
            "sizes": {str(size): count for size, count in self.sizes.items()},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Builds an untrained denoiser from `config`.

        Raises:
            ConfigError: unknown backbone, process or arguments.
        """
        rest = dict(config)
        backbone = build_backbone(rest.pop("backbone"))  # type: ignore[arg-type]
        levels = build_levels(rest.pop("levels"))  # type: ignore[arg-type]
        return cls(backbone, levels=levels, **rest)  # type: ignore[arg-type]

    @property
    def cutoff(self) -> float:
        return self.backbone.cutoff  # type: ignore[return-value]

    @property
    def symmetry(self) -> Symmetry:
        return self.backbone.symmetry  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(p.dtype for p in self.parameters())

    def encode(self, pos: Float[Tensor, "N 3"], numbers: Int[Tensor, " N"], ptr: Int[Tensor, " P"]) -> Cloud:
        """Molecules as clean clouds in units of the denoiser.

        Raises:
            ConfigError: an element that it does not know.
        """
        known = torch.tensor(self.elements, device=numbers.device)
        hot = numbers[:, None] == known if self.elements else numbers.new_zeros(len(numbers), 0, dtype=torch.bool)
        if self.elements and not bool(hot.any(1).all()):
            strange = sorted(set(numbers[~hot.any(1)].tolist()))
            raise ConfigError("elements that the model does not make", expected=str(self.elements), got=str(strange))
        feats = hot.to(self.dtype) * self.type_scale
        return Cloud(zero_mean(pos, ptr).to(self.dtype) / self.length_unit, feats, ptr)

    def decode(self, estimate: Estimate) -> tuple[Float[Tensor, "N 3"], Int[Tensor, " N"]]:
        """Positions in Å and the likeliest elements."""
        scores = estimate.clean.feats if estimate.logits is None else estimate.logits
        known = torch.tensor(self.elements, device=scores.device)
        numbers = known[scores.argmax(1)] if self.elements else scores.new_zeros(len(scores), dtype=torch.int64)
        return estimate.clean.pos * self.length_unit, numbers

    def forward(
        self,
        noisy: Cloud,
        level: Float[Tensor, " G"],
        *,
        earlier: Estimate | None = None,
        context: Float[Tensor, "G C"] | None = None,
    ) -> Estimate:
        """The clean structures expected behind `noisy`.

        Args:
            noisy: y, centred.
            level: s of each structure.
            earlier: what was estimated before, for self-conditioning; None for nothing.
            context: values of the conditions, in their own units; NaN, or None, for not given.
        """
        level = level.to(noisy.pos.dtype)
        out = self.backbone(self.inputs(noisy, level, earlier, context))
        if out.vectors is None or out.vectors.shape[1] == 0:
            raise ConfigError("a denoiser needs a vector per node", remedy="set out_vectors=1")
        s = level[noisy.batch][:, None]
        c = (1 + s.square()).rsqrt()
        moved = zero_mean(out.vectors[:, 0], noisy.ptr)
        told = out.scalars[:, : self.num_types]
        pos = self._clean(noisy.pos, moved, s, c)
        hidden = out.scalars[:, self.num_types :] if self.bond_channels else None
        if self.types == "gaussian":
            return Estimate(Cloud(pos, self._clean(noisy.feats, told, s, c), noisy.ptr), None, hidden)
        return Estimate(Cloud(pos, told.softmax(1) * self.type_scale, noisy.ptr), told, hidden)

    def inputs(
        self, noisy: Cloud, level: Float[Tensor, " G"], earlier: Estimate | None, context: Float[Tensor, "G C"] | None
    ) -> Graph:
        """What the backbone sees of noisy structures."""
        scalars = self._scalars(noisy, level, earlier, context)
        seen = noisy.pos * (1 + level.square()).rsqrt()[noisy.batch][:, None]  # to unit variance
        vectors = None
        if self.self_conditioning:
            vectors = (torch.zeros_like(seen) if earlier is None else earlier.clean.pos - seen)[:, None]
        blank = torch.zeros_like(noisy.batch)
        return complete_graph(seen, blank, noisy.ptr, node_scalars=scalars, node_vectors=vectors)

    def calibrate(self, clean: Cloud) -> None:
        """Scales the untrained weights of a backbone that knows how, on these structures at all levels of noise."""
        if not isinstance(self.backbone, Calibrated):
            return
        level = self.levels.draw(clean.num_graphs).to(clean.pos.device, clean.pos.dtype)
        noise = gaussian_cloud(clean.ptr, clean.feats.shape[1], dtype=clean.pos.dtype)
        with torch.no_grad():
            self.backbone.calibrate(self.inputs(clean.plus(noise.scaled(level)), level, None, None))

    def bond_logits(self, estimate: Estimate, pairs: Int[Tensor, "2 B"]) -> Float[Tensor, "B 4"]:
        """Scores of bond orders 0 to 3 of pairs of nodes."""
        if self.bonds is None or estimate.hidden is None:
            raise ConfigError("this denoiser has no bond head", remedy="train with bond_channels > 0")
        logits: Tensor = self.bonds(estimate.hidden, estimate.clean.pos, pairs)
        return logits

    def _clean(self, noisy: Tensor, raw: Tensor, s: Tensor, c: Tensor) -> Tensor:
        if self.prediction == "noise":
            return noisy - s * raw
        if self.prediction == "clean":
            return c * noisy + raw
        return c.square() * noisy + s * c * raw

    def _scalars(
        self, noisy: Cloud, level: Tensor, earlier: Estimate | None, context: Tensor | None
    ) -> Float[Tensor, "N S"]:
        """Node scalars: elements (now, and as estimated before), then the conditions of the structure.

        The last of them is the size s/√(1+s²) of the noise that is left in what the backbone sees.
        """
        size = noisy.ptr.diff()
        s = level[noisy.batch][:, None]
        # to unit variance, like the coordinates; the spread of one-hot elements is about half of their scale
        nodes = [noisy.feats / (s.square() + (self.type_scale / 2) ** 2).sqrt()]
        if self.self_conditioning:
            before = torch.zeros_like(noisy.feats) if earlier is None else earlier.clean.feats / self.type_scale
            told = noisy.feats.new_full((len(noisy.feats), 1), float(earlier is not None))
            nodes += [before, told]
        whole = [level.log()[:, None] / 4, (size.to(level.dtype)[:, None] - 18) / 6]
        if self.conditions:
            whole.append(self._standardised(context, level))
        whole.append(level[:, None] * (1 + level.square()).rsqrt()[:, None])
        return torch.cat([*nodes, torch.cat(whole, dim=1)[noisy.batch]], dim=1)

    def _standardised(self, context: Tensor | None, level: Tensor) -> Float[Tensor, "G T"]:
        """Conditions in units of their spread, 0 where they are not given, and whether they are."""
        if context is None:
            context = level.new_full((len(level), len(self.conditions)), torch.nan)
        mean, spread = torch.tensor(list(self.conditions.values()), dtype=level.dtype, device=level.device).unbind(1)
        given = ~context.isnan()
        values = torch.where(given, (context - mean) / spread, 0.0).to(level.dtype)
        return torch.cat([values, given.to(level.dtype)], dim=1)
