"""Rotations and grids of directions: pure mathematics."""

from geomol.geometry.frames import PrincipalAxes, pca_frames, principal_axes
from geomol.geometry.grids import GRIDS, design_residual, fibonacci_grid, orientation_grid
from geomol.geometry.mesh import Mesh, SurfaceSample, area_vectors, sample_surface
from geomol.geometry.normals import Normals, pca_normals
from geomol.geometry.robust_frames import WeightedFrames, robust_frames
from geomol.geometry.rotations import random_rotations, rotation_about_z, rotation_from_quaternion

__all__ = [
    "GRIDS",
    "Mesh",
    "Normals",
    "PrincipalAxes",
    "SurfaceSample",
    "WeightedFrames",
    "area_vectors",
    "design_residual",
    "fibonacci_grid",
    "orientation_grid",
    "pca_frames",
    "pca_normals",
    "principal_axes",
    "random_rotations",
    "robust_frames",
    "rotation_about_z",
    "rotation_from_quaternion",
    "sample_surface",
]
