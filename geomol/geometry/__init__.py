"""Rotations and grids of directions: pure mathematics."""

from geomol.geometry.grids import GRIDS, design_residual, fibonacci_grid, orientation_grid
from geomol.geometry.rotations import random_rotations, rotation_from_quaternion

__all__ = [
    "GRIDS",
    "design_residual",
    "fibonacci_grid",
    "orientation_grid",
    "random_rotations",
    "rotation_from_quaternion",
]
