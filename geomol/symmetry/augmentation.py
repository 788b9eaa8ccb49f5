"""Averages over motions that do not depend on the structure: at test time, and with learned widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.geometry.grids import icosahedral_rotations, octahedral_rotations
from geomol.graph import Graph
from geomol.models import Features, Symmetry
from geomol.symmetry.penalties import LastPenalty
from geomol.symmetry.poses import Poses, Symmetriser, average_over_poses, centroids
from geomol.symmetry.shifted import ShiftedBackbone

ROTATIONS = ("random", "octahedral", "icosahedral")
GENERATORS = ("rotations", "shears", "scales", "translations")

_TRANSLATION_STEP = 0.5  # Å per unit width, as in the authors' 3D generators
_TINY_SQUARE = 1e-24  # under the root of the norm of widths, so that it has a gradient at zero


def _separable(backbone: nn.Module) -> bool:
    """Poses that are the same for all structures leave far ones independent, if no absolute position is read."""
    inner = cast(Symmetry, backbone.symmetry)
    return inner.separable and inner.group in ("T(3)", "SE(3)", "E(3)")


class TestTimeAverage(Symmetriser):
    """The mean of a backbone over K turned copies of each structure, about its centroid: f̄(x) = 1/K Σ_k g_k f(g_k⁻¹ x).

    With the rotations of a finite group the mean is exactly symmetric under that group, and nearly so in between. With
    random ones the error falls as 1/√K; they are the same for every structure, so evaluation repeats.
    In training `train_samples` random rotations stand in (1: augmentation; 0: the structure as it is).

    Args:
        backbone: see `Symmetriser`.
        group: "SE(3)", or "E(3)", which takes mirror images too.
        rotations: "random", "octahedral" (24) or "icosahedral" (60).
        samples: K for random rotations.
        train_samples: random rotations per structure and step in training.
        seed: of the random rotations.

    Raises:
        ConfigError: settings out of range.
    """

    __test__ = False  # the name makes pytest think otherwise

    fixed: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        group: str = "SE(3)",
        rotations: str = "random",
        samples: int = 8,
        train_samples: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        if group not in ("SE(3)", "E(3)"):
            raise ConfigError(f'no average over group "{group}"', expected="SE(3) or E(3)")
        if rotations not in ROTATIONS:
            raise ConfigError("unknown rotations", expected=", ".join(ROTATIONS), got=rotations)
        if samples < 1 or train_samples < 0:
            raise ConfigError("samples are at least 1 and train_samples at least 0", got=f"{samples}, {train_samples}")
        self.group, self.rotations = group, rotations
        self.samples, self.train_samples, self.seed = samples, train_samples, seed
        self.config = {
            "group": group,
            "rotations": rotations,
            "samples": samples,
            "train_samples": train_samples,
            "seed": seed,
        }
        self.register_buffer("fixed", self._fixed(), persistent=False)
        self._claim(group, exact=False, separable=_separable(backbone), stochastic=rotations == "random")

    def _fixed(self) -> Float[Tensor, "K 3 3"]:
        if self.rotations == "random":
            return torch.zeros(0, 3, 3, dtype=torch.float64)
        group = octahedral_rotations() if self.rotations == "octahedral" else icosahedral_rotations()
        return torch.cat([group, -group]) if self.group == "E(3)" else group

    def _random(self, num: int) -> Float[Tensor, "{num} 3 3"]:
        generator = self.rng()
        turn = random_rotations(num, generator=generator)
        if self.group == "E(3)":
            turn = turn * (1.0 - 2.0 * torch.randint(0, 2, (num, 1, 1), generator=generator).double())
        return turn

    def poses(self, graph: Graph) -> Poses:
        num = graph.num_graphs
        if self.training:
            count = max(self.train_samples, 1)
            turn = self._random(num * count) if self.train_samples else torch.eye(3).expand(num, 3, 3)
        else:
            one = self.fixed if self.rotations != "random" else self._random(self.samples)
            count = len(one)
            turn = one.repeat(num, 1, 1)
        turn = turn.to(graph.pos)
        structure = torch.arange(num, device=graph.device).repeat_interleave(count)
        return Poses(turn, turn.new_full((num * count,), 1 / count), structure, centroids(graph))


def affine_generators(names: Sequence[str]) -> Float[Tensor, "A 4 4"]:
    """Generators of affine maps x → L x + t as 4 × 4 matrices, three each: rotations about x, y, z; shears of the pairs
    yz, zx, xy; scales along x, y, z; translations along x, y, z.

    Raises:
        ConfigError: unknown names, or none.
    """
    unknown = [name for name in names if name not in GENERATORS]
    if unknown or not names:
        raise ConfigError("unknown generators", expected=f"some of {', '.join(GENERATORS)}", got=str(list(names)))
    found = []
    for name in names:
        for k in range(3):
            i, j = (k + 1) % 3, (k + 2) % 3
            a = torch.zeros(4, 4, dtype=torch.float64)
            if name == "rotations":
                a[j, i], a[i, j] = 1.0, -1.0
            elif name == "shears":
                a[j, i] = a[i, j] = 1.0
            elif name == "scales":
                a[k, k] = 1.0
            else:
                a[k, 3] = _TRANSLATION_STEP
            found.append(a)
    return torch.stack(found)


class LearnedAugmentation(Symmetriser):
    """The mean over random affine maps whose spread is learned: f̄(x) = E_u f(exp(Σ_k u_k w_k A_k) x), u_k ~ U[−1, 1].

    The widths w_k = softplus(θ_k) get gradients through the maps. `penalty()` is −reg |w|, over widths below `limit`
    only: without that reward the narrowest distribution always fits training data best. Directions that the task does
    not depend on widen; the others stay. It rewards width, so it may find more than the symmetry.

    Source: Benton et al. (Augerino), NeurIPS 2020 (arXiv:2010.11882). Maps act about the centroid; vectors return by
    the inverse of the linear part. Edges stay those of the structure.

    Symmetry: translations and permutations for certain; what else, the widths say. Shears and scales move pairs across
    a finite cutoff; potentials with one must do without them.

    Args:
        backbone: see `Symmetriser`.
        generators: some of "rotations", "shears", "scales", "translations".
        width: of every generator at the start (rad; for scales and shears the exponent; 0.5 Å for translations).
        reg: reward for width.
        limit: widths beyond it are not rewarded any more.
        samples: maps per structure in evaluation.
        train_samples: maps per structure and step in training.
        seed: of u.

    Raises:
        ConfigError: settings out of range.
    """

    generators: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        generators: Sequence[str] = GENERATORS,
        width: float = 0.54,
        reg: float = 0.01,
        limit: float = 10.0,
        samples: int = 8,
        train_samples: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        if not width > 0 or min(samples, train_samples) < 1:
            raise ConfigError("width is positive and samples are at least 1", got=f"{width}, {samples}")
        self.reg, self.limit, self.samples, self.train_samples, self.seed = reg, limit, samples, train_samples, seed
        self.config = {
            "generators": list(generators),
            "width": width,
            "reg": reg,
            "limit": limit,
            "samples": samples,
            "train_samples": train_samples,
            "seed": seed,
        }
        self.register_buffer("generators", affine_generators(generators), persistent=False)
        self.theta = nn.Parameter(torch.full((len(self.generators),), math.log(math.expm1(width))))
        self._claim("T(3)", smooth=self._is_smooth(), separable=_separable(backbone))
        self._last = LastPenalty()

    def _is_smooth(self) -> bool:
        inner = cast(Symmetry, self.backbone.symmetry)
        rigid = not {"shears", "scales"} & set(cast(list[str], self.config["generators"]))
        return inner.smooth and (rigid or math.isinf(self.cutoff))

    @property
    def widths(self) -> Float[Tensor, " A"]:
        """w_k, in the order of the generators."""
        return torch.nn.functional.softplus(self.theta)

    def maps(self, u: Float[Tensor, "P A"]) -> Float[Tensor, "P 4 4"]:
        """exp(Σ_k u_k w_k A_k) for given u."""
        exponent = torch.einsum("pk,kij->pij", u * self.widths.to(u.dtype), self.generators.to(u))
        maps: Tensor = torch.linalg.matrix_exp(exponent)
        return maps

    def draw_steps(self, graph: Graph) -> Float[Tensor, "P A"]:
        """u for each structure and sample: independent in training, the same for every structure in evaluation."""
        count = self.train_samples if self.training else self.samples
        rows = count * graph.num_graphs if self.training else count
        u = 2 * torch.rand(rows, len(self.theta), generator=self.rng(), dtype=torch.float64) - 1
        return (u if self.training else u.repeat(graph.num_graphs, 1)).to(graph.pos)

    def poses(self, graph: Graph) -> Poses:
        return self._poses(graph, self.maps(self.draw_steps(graph)))

    def _poses(self, graph: Graph, maps: Float[Tensor, "P 4 4"]) -> Poses:
        count = len(maps) // max(graph.num_graphs, 1)
        linear = maps[:, :3, :3]
        structure = torch.arange(graph.num_graphs, device=graph.device).repeat_interleave(count)
        weight = linear.new_full((len(maps),), 1 / count)
        return Poses(linear.mT, weight, structure, centroids(graph), back=torch.linalg.inv(linear).mT)

    def forward(self, graph: Graph) -> Features:
        maps = self.maps(self.draw_steps(graph))
        self._last.value = self._reward()
        return average_over_poses(ShiftedBackbone(self.backbone, maps[:, :3, 3]), graph, self._poses(graph, maps))

    def _reward(self) -> Float[Tensor, ""]:
        counted = self.widths * (self.widths < self.limit)
        return -self.reg * (counted.square().sum() + _TINY_SQUARE).sqrt()

    def penalty(self) -> Float[Tensor, ""] | None:
        """−reg |w| of the last forward pass."""
        return self._last.value
