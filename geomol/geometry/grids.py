"""Grids of directions on the sphere S², as fixed sets of unit vectors.

A spherical t-design integrates every polynomial of degree ≤ t exactly with equal weights; the larger t, the smaller the
rotation error of a network that averages over the grid.

    name            O    t   symmetric under
    octahedral      6    3   the octahedral group
    icosahedral    12    5   the icosahedral group
    dodecahedral   20    5   the icosahedral group
    design24       24    7   the octahedral rotations (McLaren's improved snub cube)
    design60       60    9   the icosahedral rotations
    fibonacci:O     O    –   nothing; a nearly even lattice of any size
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.errors import ConfigError, nearest

GOLDEN = (1 + math.sqrt(5)) / 2


def fibonacci_grid(num: int) -> Float[Tensor, "{num} 3"]:
    """Fibonacci lattice: longitudes advance by the golden angle, heights are evenly spaced."""
    i = torch.arange(num, dtype=torch.float64)
    z = 1 - (2 * i + 1) / num
    rho, phi = (1 - z * z).sqrt(), 2 * math.pi * i / GOLDEN
    return torch.stack([rho * phi.cos(), rho * phi.sin(), z], dim=-1)


def _cyclic_with_signs(*points: tuple[float, float, float]) -> Tensor:
    """All sign changes and cyclic permutations of some points, normalised, without repeats."""
    found: list[tuple[float, ...]] = []
    for x, y, z in points:
        for signs in itertools.product((1, -1), repeat=3):
            signed = (signs[0] * x, signs[1] * y, signs[2] * z)
            for k in range(3):
                p = tuple(0.0 + v for v in signed[k:] + signed[:k])
                if not any(math.dist(p, q) < 1e-9 for q in found):
                    found.append(p)
    return torch.nn.functional.normalize(torch.tensor(found, dtype=torch.float64), dim=-1)


def octahedral_grid() -> Float[Tensor, "6 3"]:
    """Vertices of the octahedron."""
    return _cyclic_with_signs((1.0, 0.0, 0.0))


def icosahedral_grid() -> Float[Tensor, "12 3"]:
    """Vertices of the icosahedron."""
    return _cyclic_with_signs((0.0, 1.0, GOLDEN))


def dodecahedral_grid() -> Float[Tensor, "20 3"]:
    """Vertices of the dodecahedron."""
    return _cyclic_with_signs((1.0, 1.0, 1.0), (0.0, 1 / GOLDEN, GOLDEN))


def octahedral_rotations() -> Float[Tensor, "24 3 3"]:
    """The 24 signed permutation matrices of determinant +1."""
    group = []
    for perm in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            m = torch.zeros(3, 3, dtype=torch.float64)
            for row, (column, sign) in enumerate(zip(perm, signs, strict=True)):
                m[row, column] = sign
            if torch.linalg.det(m) > 0:
                group.append(m)
    return torch.stack(group)


def icosahedral_rotations() -> Float[Tensor, "60 3 3"]:
    """The 60 rotations that map the icosahedron of `icosahedral_grid` onto itself, found vertex by vertex."""
    grid = icosahedral_grid()
    a, b = grid[0], grid[(grid @ grid[0] - 1 / math.sqrt(5)).abs() < 1e-9][0]
    frame = torch.stack([a, b, torch.linalg.cross(a, b)], dim=-1)
    group = []
    for i, j in itertools.permutations(range(12), 2):
        if abs(float(grid[i] @ grid[j]) - 1 / math.sqrt(5)) < 1e-9:
            image = torch.stack([grid[i], grid[j], torch.linalg.cross(grid[i], grid[j])], dim=-1)
            group.append(image @ torch.linalg.inv(frame))
    return torch.stack(group)


def _legendre_polynomial(x: Tensor, degree: int) -> Tensor:
    before, now = torch.ones_like(x), x
    for l in range(2, degree + 1):  # noqa: E741
        before, now = now, ((2 * l - 1) * x * now - (l - 1) * before) / l
    return now


def design_residual(grid: Float[Tensor, "O 3"], degree: int) -> Float[Tensor, ""]:
    """Mean over pairs of P_l(x_i · x_j): 0 exactly when the grid averages all harmonics of this degree l ≥ 1 to 0."""
    return _legendre_polynomial((grid @ grid.T).clamp(-1, 1), degree).mean()


def _orbit_design(group: Tensor, start: tuple[float, float, float], degrees: tuple[int, ...]) -> Tensor:
    """The orbit of one point, moved until the group's invariants of the given degrees vanish.

    The invariant harmonic of degree l is evaluated as Σ_g P_l(g x · a) with a fixed axis a of the group; its zeros are
    simple, so Newton's method (with the minimum-norm step) reaches rounding in a few steps.
    """
    axis = group.new_tensor([0.0, 1.0, GOLDEN]) if len(group) == 60 else group.new_tensor([0.0, 0.0, 1.0])
    axis = axis / axis.norm()

    def invariants(point: Tensor) -> Tensor:
        cos = group @ (point / point.norm()) @ axis
        return torch.stack([_legendre_polynomial(cos, d).mean() for d in degrees])

    point = torch.tensor(start, dtype=torch.float64)
    for _ in range(30):
        jacobian = torch.autograd.functional.jacobian(invariants, point)  # type: ignore[no-untyped-call]
        point = point - torch.linalg.pinv(jacobian) @ invariants(point)
        point = point / point.norm()
    return group @ point


def design24_grid() -> Float[Tensor, "24 3"]:
    """24-point 7-design: an octahedral orbit whose invariants of degree 4 and 6 vanish (McLaren 1963)."""
    return _orbit_design(octahedral_rotations(), (0.866, 0.423, 0.266), (4, 6))


def design60_grid() -> Float[Tensor, "60 3"]:
    """60-point 9-design: an icosahedral orbit whose invariant of degree 6 vanishes."""
    return _orbit_design(icosahedral_rotations(), (0.9, 0.35, 0.26), (6,))


GRIDS: dict[str, Callable[[], Tensor]] = {
    "octahedral": octahedral_grid,
    "icosahedral": icosahedral_grid,
    "dodecahedral": dodecahedral_grid,
    "design24": design24_grid,
    "design60": design60_grid,
}


def orientation_grid(name: str) -> Float[Tensor, "O 3"]:
    """The grid of this name (see the table above), float64 unit vectors.

    Raises:
        ConfigError: unknown name, or a Fibonacci grid of fewer than 2 directions.
    """
    if name in GRIDS:
        return GRIDS[name]()
    kind, _, count = name.partition(":")
    if kind == "fibonacci" and count.isdigit() and int(count) >= 2:
        return fibonacci_grid(int(count))
    raise ConfigError(f'unknown orientation grid "{name}"', remedy=nearest(name, [*GRIDS, "fibonacci:20"]))
