"""Averages of any backbone over a few poses taken from the structure itself."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.errors import ConfigError, GeomolWarning, ModelDomainError
from geomol.geometry.frames import ORDERS, PrincipalAxes, pca_frames
from geomol.geometry.robust_frames import robust_frames
from geomol.graph import Graph
from geomol.models import Features, Symmetry
from geomol.symmetry.poses import Poses, Symmetriser, average_over_poses, centroids

GROUPS = ("SO(3)", "O(3)", "SE(3)", "E(3)")
FRAMES = ("robust", "pca", "single", "stochastic", "pca2d", "stochastic2d")
EVALUATIONS = ("all", "one")


class FrameAveraging(Symmetriser):
    """Gives any backbone a symmetry by looking at each structure from frames that turn with it.

        ⟨φ⟩(x) = Σ_{g ∈ F(x)} w(g) g φ(g⁻¹ x),   F(h x) = h F(x)

    Source: Puny et al., ICLR 2022 (arXiv:2110.03336); one frame at random: Duval et al., ICML 2023 (arXiv:2305.05577);
    weighted frames: Dym, Lawrence, Siegel, ICML 2024 (arXiv:2402.16077).

    | frames       | poses of SE(3) / E(3)  | symmetry                   | continuous | cost                    |
    |--------------|------------------------|----------------------------|------------|-------------------------|
    | robust       | about 8 / 16, weighted | exact, always              | yes        | number of poses         |
    | pca          | 4 / 8                  | exact off equal moments    | no         | 4 / 8                   |
    | single       | 1                      | exact off equal moments    | no         | 1                       |
    | stochastic   | 1 in training          | on average; see evaluation | no         | 1                       |
    | pca2d        | 2 / 4, about z         | about z only               | no         | 2 / 4                   |
    | stochastic2d | 1 in training          | about z only               | no         | 1                       |

    "Moments" are the eigenvalues of the scatter matrix; where two of them are equal (methane, benzene, any cube) PCA
    frames are arbitrary, predictions depend on the orientation, and a `GeomolWarning` is given once. Energies jump
    where two cross, so only "robust" suits molecular dynamics. Frames of molecules far apart depend on each other
    (`separable` is false). Frames about z turn with the structure in the xy plane only; z is passed on as it is.

    Departs from the publications: derivatives pass through the frames by default, without which −∂E/∂x is not the
    gradient of the averaged energy; signs of "single" are chosen by third moments (see `pca_frames`).

    Args:
        backbone: any backbone, however little symmetry it has.
        group: "SE(3)" and "E(3)" put the centroid at the origin; "SO(3)" and "O(3)" turn about the centroid and leave
            it where it is, for backbones that read absolute positions.
        frames: see the table.
        order: of the eigenvalues, "ascending" or "descending"; not for "robust".
        evaluation: of stochastic frames in evaluation mode: "all", the exact average, or "one", a fixed choice.
        differentiable: keep derivatives through frames. False reproduces published training of direct predictions.
        bound: of "robust", see `robust_frames`: the higher, the fewer frames.
        periodic: accept periodic structures. Their frames come from the positions as given and the lattice vectors
            turn along; results change when atoms are wrapped into another image of the cell.
        seed: of the random choices.

    Raises:
        ConfigError: a setting of another name.
        ModelDomainError: at call, a periodic structure without `periodic`.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        group: str = "E(3)",
        frames: str = "robust",
        order: str = "ascending",
        evaluation: str = "all",
        differentiable: bool = True,
        bound: float = 0.75,
        periodic: bool = False,
        seed: int = 0,
    ) -> None:
        for name, value, known in (
            ("group", group, GROUPS),
            ("frames", frames, FRAMES),
            ("order", order, ORDERS),
            ("evaluation", evaluation, EVALUATIONS),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name} of frame averaging", expected=", ".join(known), got=str(value))
        if not 0 < bound < 1:
            raise ConfigError("the bound of robust frames must lie between 0 and 1", got=str(bound))
        super().__init__(backbone)
        self.config = {
            "group": group,
            "frames": frames,
            "order": order,
            "evaluation": evaluation,
            "differentiable": differentiable,
            "bound": bound,
            "periodic": periodic,
            "seed": seed,
        }
        self.group, self.frames, self.order, self.evaluation = group, frames, order, evaluation
        self.differentiable, self.bound, self.periodic, self.seed = differentiable, bound, periodic, seed
        self.planar, self.is_stochastic = frames.endswith("2d"), frames.startswith("stochastic")
        self._warned = False
        self._claim_frames()

    def _claim_frames(self) -> None:
        inner: Symmetry = self.backbone.symmetry  # type: ignore[assignment]
        group = self.group
        if self.planar:  # turns about z have no name among the groups; translations are kept where they were
            group = "T(3)" if inner.group in ("T(3)", "SE(3)", "E(3)") else "1"
        continuous = self.frames == "robust" and inner.continuous
        random = self.is_stochastic and self.evaluation == "one"
        self._claim(
            group,
            smooth=inner.smooth and self.differentiable,  # else the gradient taken is not that of the energy
            continuous=continuous,
            stochastic=random or inner.stochastic,
        )

    def poses(self, graph: Graph) -> Poses:
        """The frames of each structure, as poses.

        Raises:
            ModelDomainError: a periodic structure without `periodic`.
        """
        if graph.is_periodic and not self.periodic:
            raise ModelDomainError(
                "frames of a periodic structure change when its atoms are wrapped",
                expected="molecules",
                got="a periodic cell",
                remedy="set periodic=True to take frames from positions as given, or use another symmetry",
            )
        proper = self.group.startswith("S")
        if self.frames == "robust":
            pos = graph.pos if self.differentiable else graph.pos.detach()
            found = robust_frames(pos, graph.ptr, mirror=not proper, bound=self.bound)
            return Poses(found.rotation, found.weight, found.structure, centroids(graph))
        frames, axes = self._pca_frames(graph, "SO(3)" if proper else "O(3)")
        self._warn_of_degeneracy(axes)
        num_graphs, count = frames.shape[:2]
        structure = torch.arange(num_graphs, device=frames.device).repeat_interleave(count)
        weight = frames.new_full((num_graphs * count,), 1 / count)
        return Poses(frames.flatten(0, 1), weight, structure, axes.origin)

    def _pca_frames(self, graph: Graph, group: str) -> tuple[Float[Tensor, "G F 3 3"], PrincipalAxes]:
        draws = self.is_stochastic and self.training
        frames, axes = pca_frames(
            graph.pos,
            graph.ptr,
            group=group,
            signs="single" if self.frames == "single" else "random" if draws else "all",
            order=self.order,
            planar=self.planar,
            differentiable=self.differentiable,
            generator=self.rng(graph.device) if draws else None,
        )
        if self.is_stochastic and not draws and self.evaluation == "one":
            # the same choice for all structures, so that a prediction does not depend on its place in the batch
            chosen = torch.randint(frames.shape[1], (1,), generator=self.rng(graph.device), device=graph.device)
            frames = frames[:, chosen]
        return frames, axes

    def _warn_of_degeneracy(self, axes: PrincipalAxes) -> None:
        if self._warned or not bool(axes.is_degenerate.any()):
            return
        self._warned = True
        warnings.warn(
            f"{int(axes.is_degenerate.sum())} of {len(axes.axes)} structures have equal principal moments (smallest "
            f'relative gap {float(axes.gap.min()):.1e}): their frames are arbitrary; use frames="robust"',
            GeomolWarning,
            stacklevel=4,
        )

    def forward(self, graph: Graph) -> Features:
        poses = self.poses(graph)
        if self.group in ("SE(3)", "E(3)"):
            return average_over_poses(self.backbone, graph, poses)
        return average_over_poses(_AtCentroid(self.backbone, poses.origin, poses.structure), graph, poses)


class _AtCentroid(nn.Module):
    """A backbone to which every pose is shown at the centroid of its structure, instead of at the origin."""

    def __init__(self, backbone: nn.Module, origin: Float[Tensor, "G 3"], structure: Int[Tensor, " P"]) -> None:
        super().__init__()
        self.backbone, self.shift = backbone, origin[structure]

    def forward(self, seen: Graph) -> Features:
        out: Features = self.backbone(seen.replace(pos=seen.pos + self.shift[seen.batch]))
        return out
