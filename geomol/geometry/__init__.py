"""Rotations and grids of directions: pure mathematics."""

from geomol.geometry.frames import PrincipalAxes, pca_frames, principal_axes
from geomol.geometry.grids import GRIDS, design_residual, fibonacci_grid, orientation_grid
from geomol.geometry.robust_frames import WeightedFrames, robust_frames
from geomol.geometry.rotations import random_rotations, rotation_from_quaternion

__all__ = [
    "GRIDS",
    "PrincipalAxes",
    "WeightedFrames",
    "design_residual",
    "fibonacci_grid",
    "orientation_grid",
    "pca_frames",
    "principal_axes",
    "random_rotations",
    "robust_frames",
    "rotation_from_quaternion",
]
