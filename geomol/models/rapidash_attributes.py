"""What Rapidash sees of a pair of points: the invariants of its base space and kernel group."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.errors import ConfigError
from geomol.geometry import orientation_grid
from geomol.models.ponita_kernels import pair_attributes
from geomol.nn import legendre

KERNEL_GROUPS = ("SE(n)", "T(n)")
_NUM_ATTRIBUTES = {
    ("R3", "SE(n)"): 1,
    ("R3", "T(n)"): 3,
    ("R3xS2", "SE(n)"): 2,
    ("R3xS2", "T(n)"): 5,
    ("R2xS1", "SE(n)"): 2,
    ("R2xS1", "T(n)"): 4,
}


def circle_grid(num: int) -> Float[Tensor, "{num} 3"]:
    """Evenly spaced directions in the plane z = 0, float64."""
    angle = torch.arange(num, dtype=torch.float64) * (2 * math.pi / num)
    return torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=-1)


@dataclass(frozen=True)
class Space:
    """Where feature maps live, and which motions the kernels cannot see.

    Attributes per pair, with r = x_send − x_recv and o⊥ the direction o turned by +90°:

        base    SE(n)                    T(n)
        R3      |r|                      r
        R3xS2   r·o, |r − (r·o)o|        r, r·o, |r − (r·o)o|
        R2xS1   r·o, r·o⊥ (signed)       r (in the plane), r·o, r·o⊥

    Those of SE(n) in space are invariant under reflections too; r·o⊥ changes its sign.

    Attributes:
        base: "R3", "R3xS2" or "R2xS1".
        group: "SE(n)" or "T(n)".
    """

    base: str
    group: str

    @staticmethod
    def of(orientations: str, group: str) -> tuple[Space, Float[Tensor, "O 3"] | None]:
        """The space that these settings name, and its grid of directions.

        Raises:
            ConfigError: unknown group or grid.
        """
        if group not in KERNEL_GROUPS:
            raise ConfigError("unknown kernel_group", expected=" or ".join(KERNEL_GROUPS), got=str(group))
        if orientations == "none":
            return Space("R3", group), None
        kind, _, count = orientations.partition(":")
        if kind != "circle":
            return Space("R3xS2", group), orientation_grid(orientations)
        if not (count.isdigit() and int(count) >= 3):
            raise ConfigError("a grid on the circle needs at least 3 directions", expected="circle:8", got=orientations)
        return Space("R2xS1", group), circle_grid(int(count))

    @property
    def num_attributes(self) -> int:
        return _NUM_ATTRIBUTES[self.base, self.group]

    def attributes(self, vec: Float[Tensor, "E 3"], ori: Float[Tensor, "O 3"] | None) -> Float[Tensor, "E *O A"]:
        """The row of the table above; vectors and directions of R2xS1 lie in the plane z = 0."""
        if ori is None:
            return vec if self.group == "T(n)" else pair_attributes(vec, None)
        found = _in_the_plane(vec, ori) if self.base == "R2xS1" else pair_attributes(vec, ori)
        if self.group == "SE(n)":
            return found
        raw = vec[:, :2] if self.base == "R2xS1" else vec
        return torch.cat([raw[:, None].expand(-1, ori.shape[0], -1), found], dim=-1)

    def directions(
        self, unit: Float[Tensor, "E 3"], ori: Float[Tensor, "O 3"] | None, num: int
    ) -> Float[Tensor, "E *O L"]:
        """Functions of the direction of r up to degree num − 1, smooth on the sphere (or circle): what the attributes
        say beside |r|.

        Legendre polynomials of r̂·o; on the circle cos and sin of l times the angle from o to r̂; for T(n) monomials of
        the components of r̂ as well.
        """
        raw = unit[:, :2] if self.base == "R2xS1" else unit
        if ori is None:
            one = torch.ones_like(raw[:, :1])
            return torch.cat([one, monomials(raw, num)], dim=1) if self.group == "T(n)" else one
        on_circle = self.base == "R2xS1"
        found = _circular(_in_the_plane(unit, ori), num) if on_circle else legendre(unit @ ori.T, num)
        if self.group == "SE(n)":
            return found
        return torch.cat([found, monomials(raw, num)[:, None].expand(-1, ori.shape[0], -1)], dim=-1)

    def num_directions(self, num: int) -> int:
        """How many functions `directions` has."""
        dims = 2 if self.base == "R2xS1" else 3
        given = {"R3": 1, "R3xS2": num, "R2xS1": 2 * num - 1}[self.base]
        return given + (math.comb(num - 1 + dims, dims) - 1 if self.group == "T(n)" else 0)


def monomials(x: Float[Tensor, "E D"], num: int) -> Float[Tensor, "E M"]:
    """Distinct products of 1 to num − 1 of the components."""
    chosen = [c for degree in range(1, num) for c in itertools.combinations_with_replacement(range(x.shape[1]), degree)]
    if not chosen:
        return x[:, :0]
    return torch.stack([x[:, list(c)].prod(1) for c in chosen], dim=1)


def _in_the_plane(vec: Float[Tensor, "E 3"], ori: Float[Tensor, "O 3"]) -> Float[Tensor, "E O 2"]:
    """(r·o, r·o⊥): the coordinates of r in the frame whose first axis is o."""
    turned = torch.stack([-ori[:, 1], ori[:, 0]], dim=-1)
    return torch.stack([vec @ ori.T, vec[:, :2] @ turned.T], dim=-1)


def _circular(unit: Float[Tensor, "E O 2"], num: int) -> Float[Tensor, "E O L"]:
    """1, then √2 cos(lθ) and √2 sin(lθ) for 1 ≤ l < num, as real and imaginary parts of powers."""
    cos, sin = unit.unbind(-1)
    values, real, imaginary = [torch.ones_like(cos)], torch.ones_like(cos), torch.zeros_like(cos)
    for _ in range(1, num):
        real, imaginary = real * cos - imaginary * sin, real * sin + imaginary * cos
        values += [math.sqrt(2) * real, math.sqrt(2) * imaginary]
    return torch.stack(values, dim=-1)
