"""Boxes, cones, tubes and discs with their areas and normals in closed form: what made objects are built of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

Sampler = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Piece:
    """A surface, the part that it belongs to, and where it is.

    Attributes:
        area: of the surface.
        draw: from (n, 3) numbers uniform in [0, 1) to n points uniform on the surface and their outward normals.
        rotation, shift: applied to points after `draw`, x → R x + t.
    """

    area: float
    part: int
    draw: Sampler
    rotation: np.ndarray
    shift: np.ndarray


def _piece(area: float, part: int, draw: Sampler) -> Piece:
    return Piece(area, part, draw, np.eye(3), np.zeros(3))


def moved(piece: Piece, rotation: Float[np.ndarray, "3 3"] | None, shift: Sequence[float] | np.ndarray) -> Piece:
    """The piece turned about the origin, then shifted."""
    turn = np.eye(3) if rotation is None else rotation
    return replace(piece, rotation=turn @ piece.rotation, shift=turn @ piece.shift + np.asarray(shift, dtype=float))


def rotation_about(axis: Sequence[float], angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation by an angle in radians about an axis through the origin, right-handed (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return turn


def box(size: tuple[float, float, float], *, part: int, open_top: bool = False) -> Piece:
    """The sides of a box about the origin; without the upper one if `open_top`."""
    half = np.asarray(size, dtype=float) / 2
    sides = [(axis, sign) for axis in range(3) for sign in (-1.0, 1.0) if not (open_top and (axis, sign) == (2, 1.0))]
    areas = np.array([4 * half[(axis + 1) % 3] * half[(axis + 2) % 3] for axis, _ in sides])
    ends = np.cumsum(areas) / areas.sum()

    def draw(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        side = np.minimum(np.searchsorted(ends, u[:, 0], side="right"), len(sides) - 1)
        axis, sign = np.array([s[0] for s in sides])[side], np.array([s[1] for s in sides])[side]
        rows = np.arange(len(u))
        points, normals = np.zeros((len(u), 3)), np.zeros((len(u), 3))
        normals[rows, axis] = sign
        points[rows, axis] = sign * half[axis]
        for step in (1, 2):
            other = (axis + step) % 3
            points[rows, other] = (2 * u[:, step] - 1) * half[other]
        return points, normals

    return _piece(float(areas.sum()), part, draw)


def cone(low: float, high: float, height: float, *, part: int) -> Piece:
    """The mantle of a truncated cone about the third axis, of radius `low` at 0 and `high` at `height`; or a tube."""
    slant = float(np.hypot(height, low - high))

    def draw(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # the area below z grows as the integral of the radius: r² is uniform between low² and high²
        radius = np.sqrt(low**2 + u[:, 0] * (high**2 - low**2)) if low != high else np.full(len(u), low)
        z = height * (radius - low) / (high - low) if low != high else height * u[:, 0]
        angle = 2 * np.pi * u[:, 1]
        out = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        points = np.concatenate([radius[:, None] * out, z[:, None]], axis=1)
        up = np.full((len(u), 1), (low - high) / slant)
        return points, np.concatenate([out * height / slant, up], axis=1)

    return _piece(float(np.pi * (low + high) * slant), part, draw)


def disc(radius: float, *, part: int, down: bool = False) -> Piece:
    """A disc about the third axis at height 0, facing up or down."""

    def draw(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, angle = radius * np.sqrt(u[:, 0]), 2 * np.pi * u[:, 1]
        points = np.stack([r * np.cos(angle), r * np.sin(angle), np.zeros(len(u))], axis=1)
        return points, np.tile([0.0, 0.0, -1.0 if down else 1.0], (len(u), 1))

    return _piece(float(np.pi * radius**2), part, draw)


def sample_pieces(
    pieces: Sequence[Piece], num: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points uniform over the area of all pieces, their normals and parts; at least one point of every part."""
    areas = np.array([piece.area for piece in pieces])
    owner = random.choice(len(pieces), size=num, p=areas / areas.sum())
    # the largest piece of each part has one point for certain: labels that a class has are there in every cloud
    parts = np.array([piece.part for piece in pieces])
    for slot, part in enumerate(np.unique(parts)):
        owner[slot] = np.argmax(np.where(parts == part, areas, -1.0))
    drawn = random.random((num, 3))
    pos, normals = np.empty((num, 3)), np.empty((num, 3))
    for k, piece in enumerate(pieces):
        mine = owner == k
        points, slopes = piece.draw(drawn[mine])
        pos[mine] = points @ piece.rotation.T + piece.shift
        normals[mine] = slopes @ piece.rotation.T
    order = random.permutation(num)  # the first points are not special
    return pos[order], normals[order], parts[owner][order]
