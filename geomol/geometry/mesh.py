"""Triangle meshes: areas, normals, and points spread evenly over the surface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError, InputError


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles over shared vertices.

    Attributes:
        vertices: corner positions.
        faces: three rows of `vertices` per triangle, counter-clockwise seen from outside (many files do not keep this).
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]


@dataclass(frozen=True, eq=False)
class SurfaceSample:
    """Points on a mesh, the unit normals of their triangles, and which triangles."""

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    face: Int[Tensor, " N"]


def area_vectors(mesh: Mesh) -> Float[Tensor, "F 3"]:
    """½ (b − a) × (c − a): along the normal of each triangle (right-hand rule), as long as its area."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    doubled: Tensor = torch.linalg.cross(b - a, c - a)
    return doubled / 2


def sample_surface(mesh: Mesh, num: int, *, generator: torch.Generator) -> SurfaceSample:
    """Points distributed uniformly over the area of a mesh (Osada et al. 2002); the same for the same generator.

    A triangle is drawn by its area, and in it the point (1 − √u) a + √u (1 − v) b + √u v c with u, v uniform. Triangles
    without area are never drawn. The sign of the normal is that of the winding; it says "outside" only where the file
    is consistent.

    Raises:
        InputError: a mesh without any area. ConfigError: `num` not a count.
    """
    if isinstance(num, bool) or not isinstance(num, int) or num < 1:
        raise ConfigError("number of points is not a count", expected="1 or more", got=repr(num))
    vectors = area_vectors(Mesh(mesh.vertices.double(), mesh.faces))
    areas = vectors.norm(dim=1)
    reach = areas.cumsum(0)
    if not len(reach) or not bool(reach[-1] > 0) or not bool(reach[-1].isfinite()):
        got = f"{len(areas)} triangles of total area {float(reach[-1]) if len(reach) else 0:g}"
        raise InputError("the mesh has no surface to sample", expected="a positive, finite area", got=got)
    device = mesh.vertices.device
    draws = torch.rand(num, 3, generator=generator, dtype=torch.float64, device=generator.device).to(device)
    face = torch.searchsorted(reach, draws[:, 0] * reach[-1], right=True)
    # a draw that rounds up to the whole area belongs to the last triangle that has any
    face = face.clamp(max=int((areas > 0).nonzero()[-1]))
    a, b, c = mesh.vertices[mesh.faces[face]].double().unbind(1)
    root, v = draws[:, 1:2].sqrt(), draws[:, 2:3]
    points = (1 - root) * a + root * (1 - v) * b + root * v * c
    normals = vectors[face] / areas[face, None]
    return SurfaceSample(points.to(mesh.vertices.dtype), normals.to(mesh.vertices.dtype), face)
