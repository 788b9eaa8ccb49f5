"""The denoiser: a backbone that is told the noise level and says what the clean structure was."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.diffusion.bond_head import BondHead
from geomol.diffusion.cloud import Cloud, gaussian_cloud, zero_mean
from geomol.diffusion.conditions import added_columns, standardised, weights_of_sizes
from geomol.diffusion.levels import Levels, build_levels, levels_config
from geomol.diffusion.scaling import FeatureScaling
from geomol.errors import ConfigError
from geomol.graph import Graph, graph_by_rule, parse_edge_rule
from geomol.models import Calibrated, Symmetry
from geomol.symmetry import OnBackbone, backbone_config, build_backbone

PREDICTIONS = ("velocity", "noise", "clean")
TYPES = ("cross_entropy", "gaussian")
SPREAD_OF_CHARGES = 3.0  # of nuclear charges in organic molecules, about
USUAL_POINTS = 512


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


class Denoiser(OnBackbone):
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
        charge_scale: of the nuclear charge as a further feature, for "gaussian" alone (EDM: 0.1); 0: none.
        length_unit: standard deviation of the coordinates, Å.
        self_conditioning: whether earlier estimates are read (Chen et al. 2023, arXiv:2208.04202).
        bond_channels: features per node for bond orders; 0 for no bond head.
        conditions: names of further numbers per structure, with the mean and spread to standardise them.
        sizes: how many structures of each size it was trained on, from which sizes are drawn.
        condition_sizes: of each condition, the mean and standard deviation among structures of each size.
        edges: which points the backbone sees joined: "fc" (all pairs), "knn-16", "radius-0.5" (in units of what the
            backbone sees, y / √(1 + s²)), or "none" for backbones that find their own. They are found anew among the
            noisy points at every call. With nearest neighbours nothing is continuous in the positions.
        frame: whether the backbone is told the pose: the three axes of the source's frame (`Cloud.frame`, those of the
            lab where there is none) as the last vectors of every node. Symmetry then means that estimates turn with
            points and frame together; points alone may be met in one pose only.

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
        charge_scale: float = 0.0,
        length_unit: float = 1.72,
        self_conditioning: bool = True,
        bond_channels: int = 0,
        conditions: Mapping[str, Sequence[float]] | None = None,
        sizes: Mapping[int, int] | Mapping[str, int] | None = None,
        condition_sizes: Mapping[str, Mapping[int, Sequence[float]]] | Mapping[str, Mapping[str, Sequence[float]]] = {},
        edges: str = "fc",
        frame: bool = False,
    ) -> None:
        super().__init__(backbone)
        self.edges, self.rule, self.frame = edges, parse_edge_rule(edges), frame
        for word, known in ((prediction, PREDICTIONS), (types, TYPES)):
            if word not in known:
                raise ConfigError(f'unknown setting "{word}"', expected=" or ".join(known))
        if not (type_scale > 0 and length_unit > 0):
            raise ConfigError("type_scale and length_unit must be positive", got=f"{type_scale} and {length_unit}")
        if charge_scale < 0 or (charge_scale and types != "gaussian"):
            raise ConfigError('charge_scale is positive, and goes with types = "gaussian"', got=str(charge_scale))
        self.levels = levels
        self.elements = tuple(int(z) for z in elements)
        self.prediction, self.types = prediction, types
        self.type_scale, self.charge_scale, self.length_unit = type_scale, charge_scale, length_unit
        self.self_conditioning, self.bond_channels = self_conditioning, bond_channels
        self.conditions = {name: (float(mean), float(spread)) for name, (mean, spread) in (conditions or {}).items()}
        for name, (mean, spread) in self.conditions.items():
            if not (math.isfinite(mean) and 0 < spread < math.inf):
                raise ConfigError(f'the values of condition "{name}" do not vary', got=f"mean {mean}, spread {spread}")
        self.sizes = {int(size): int(count) for size, count in (sizes or {}).items()}
        self.condition_sizes = {
            name: {int(size): (float(mean), float(std)) for size, (mean, std) in table.items()}
            for name, table in condition_sizes.items()
        }
        self.bonds = BondHead(bond_channels) if bond_channels else None

    @property
    def num_types(self) -> int:
        return len(self.elements)

    @property
    def features(self) -> Float[Tensor, "K F"]:
        """What stands for each element in a clean cloud."""
        hot = torch.eye(self.num_types, dtype=self.dtype) * self.type_scale
        if not self.charge_scale:
            return hot
        return torch.cat([hot, self.charge_scale * torch.tensor(self.elements, dtype=self.dtype)[:, None]], dim=1)

    @property
    def scaling(self) -> FeatureScaling:
        """How molecules become clouds."""
        charge = 1 / self.charge_scale if self.charge_scale else None
        return FeatureScaling(self.num_types, pos=self.length_unit, types=1 / self.type_scale, charge=charge)

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
            "charge_scale": self.charge_scale,
            "length_unit": self.length_unit,
            "self_conditioning": self.self_conditioning,
            "bond_channels": self.bond_channels,
            "conditions": {name: list(pair) for name, pair in self.conditions.items()},
            "sizes": {str(size): count for size, count in self.sizes.items()},
            "edges": self.edges,
            "frame": self.frame,
            "condition_sizes": {
                name: {str(size): list(pair) for size, pair in table.items()}
                for name, table in self.condition_sizes.items()
            },
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
    def symmetry(self) -> Symmetry:
        inner = super().symmetry
        if self.rule.name == "knn":
            return dataclasses.replace(inner, continuous=False, smooth=False)
        return inner

    def sizes_for(self, context: Mapping[str, float]) -> dict[int, float]:
        """Weights of the sizes of structures with these conditions, see `weights_of_sizes`."""
        return weights_of_sizes(self.sizes, self.condition_sizes, context)

    def added_conditions(self, other: Denoiser) -> list[int]:
        """Which of the columns of the backbone's conditions this one has and `other` has not.

        Raises:
            ConfigError: `other` has conditions that this one has not, or tells them in other units.
        """
        first = 2  # after the noise level and the size
        return [first + column for column in added_columns(self.conditions, other.conditions)]

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
        feats = hot.to(self.dtype) @ self.features.to(numbers.device)
        return Cloud(zero_mean(pos, ptr).to(self.dtype) / self.length_unit, feats, ptr)

    def decode(self, estimate: Estimate) -> tuple[Float[Tensor, "N 3"], Int[Tensor, " N"]]:
        """Positions in Å and the likeliest elements."""
        scores = estimate.clean.feats[:, : self.num_types] if estimate.logits is None else estimate.logits
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
        num_feats = self.scaling.num_feats
        told = out.scalars[:, :num_feats]
        pos = self._clean(noisy.pos, moved, s, c)
        hidden = out.scalars[:, num_feats:] if self.bond_channels else None
        if self.types == "gaussian":
            return Estimate(noisy.replace(pos, self._clean(noisy.feats, told, s, c)), None, hidden)
        return Estimate(noisy.replace(pos, told.softmax(1) * self.type_scale), told, hidden)

    def inputs(
        self, noisy: Cloud, level: Float[Tensor, " G"], earlier: Estimate | None, context: Float[Tensor, "G C"] | None
    ) -> Graph:
        """What the backbone sees of noisy structures."""
        scalars = self._scalars(noisy, level, earlier, context)
        seen = noisy.pos * (1 + level.square()).rsqrt()[noisy.batch][:, None]  # to unit variance
        vectors = []
        if self.self_conditioning:
            vectors.append((torch.zeros_like(seen) if earlier is None else earlier.clean.pos - seen)[:, None])
        if self.frame:
            vectors.append(self._axes(noisy))
        told = torch.cat(vectors, dim=1) if vectors else None
        return graph_by_rule(self.rule, seen, noisy.ptr, node_scalars=scalars, node_vectors=told)

    def _axes(self, noisy: Cloud) -> Float[Tensor, "N 3 3"]:
        """The axes of the pose, a row each, on every node."""
        if noisy.frame is None:
            return torch.eye(3, dtype=noisy.pos.dtype, device=noisy.pos.device).expand(len(noisy.pos), 3, 3)
        return noisy.frame.mT.to(noisy.pos)[noisy.batch]

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
        spreads = noisy.feats.new_full((noisy.feats.shape[1],), self.type_scale / 2)
        if self.charge_scale:
            spreads[-1] = self.charge_scale * SPREAD_OF_CHARGES
        nodes = [noisy.feats / (s.square() + spreads.square()).sqrt()]
        if self.self_conditioning:
            before = torch.zeros_like(noisy.feats) if earlier is None else earlier.clean.feats / self.type_scale
            told = noisy.feats.new_full((len(noisy.feats), 1), float(earlier is not None))
            nodes += [before, told]
        count = size.to(level.dtype)[:, None]
        # molecules have some 18 atoms; clouds of points without elements hundreds, and are told their logarithm
        whole = [level.log()[:, None] / 4, (count - 18) / 6 if self.elements else (count / USUAL_POINTS).log()]
        if self.conditions:
            whole.append(standardised(self.conditions, context, level))
        whole.append(level[:, None] * (1 + level.square()).rsqrt()[:, None])
        return torch.cat([*nodes, torch.cat(whole, dim=1)[noisy.batch]], dim=1)
