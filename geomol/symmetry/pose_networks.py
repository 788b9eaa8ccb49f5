"""Pose networks by name, and the choices that all wrappers around them share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

from torch import nn

from geomol.errors import ConfigError, nearest
from geomol.symmetry.pose_base import PoseNetwork, PoseVectors
from geomol.symmetry.pose_vector_neurons import VNDGCNN, VNDeepSets, VNSmall
from geomol.symmetry.pose_vectors import EGNNVectors

__all__ = [
    "GROUPS_OF_POSES",
    "POSE_NETWORKS",
    "VNDGCNN",
    "EGNNVectors",
    "PoseNetwork",
    "PoseVectors",
    "VNDeepSets",
    "VNSmall",
    "build_pose_network",
    "check_group",
    "pose_config",
]

POSE_NETWORKS: dict[str, type[PoseNetwork]] = {
    "vn_deep_sets": VNDeepSets,
    "vn_small": VNSmall,
    "vn_dgcnn": VNDGCNN,
    "egnn_vectors": EGNNVectors,
}
_INPUTS = ("elements", "cutoff", "in_scalars", "in_vectors")

GROUPS_OF_POSES = ("E(3)", "SE(3)", "O(3)", "SO(3)")  # the latter two turn about the centroid


def build_pose_network(pose: Mapping[str, object] | nn.Module, backbone: nn.Module) -> PoseNetwork:
    """A pose network from {"name": …, **constructor arguments}; one that is built already is taken as it is.

    Where elements, cutoff and the numbers of input scalars and vectors are not given, they are those of the backbone.

    Raises:
        ConfigError: unknown name or arguments.
    """
    if isinstance(pose, PoseNetwork):
        return pose
    if not isinstance(pose, Mapping):
        raise ConfigError("`pose` is no pose network", expected='{name = "…", …}', got=type(pose).__name__)
    arguments = dict(pose)
    name = str(arguments.pop("name", None))
    if name not in POSE_NETWORKS:
        raise ConfigError(f'unknown pose network "{name}"', remedy=nearest(name, POSE_NETWORKS))
    try:
        return POSE_NETWORKS[name](**{**_inputs_of(backbone, POSE_NETWORKS[name]), **arguments})
    except TypeError as error:
        raise ConfigError(f'arguments of pose network "{name}"', got=str(error)) from error


def _inputs_of(backbone: nn.Module, network: type[PoseNetwork]) -> dict[str, object]:
    """The settings of the innermost backbone that say what there is to read, as far as the network asks for them."""
    while isinstance(inner := getattr(backbone, "backbone", None), nn.Module):
        backbone = inner
    config = getattr(backbone, "config", {})
    return {key: config[key] for key in inspect.signature(network).parameters if key in _INPUTS and key in config}


def pose_config(network: PoseNetwork) -> dict[str, object]:
    """The configuration from which `build_pose_network` makes an untrained copy.

    Raises:
        ConfigError: a class outside `POSE_NETWORKS`.
    """
    name = next((name for name, cls in POSE_NETWORKS.items() if type(network) is cls), None)
    if name is None:
        raise ConfigError(f"{type(network).__name__} is not in POSE_NETWORKS", remedy="add it there")
    return {"name": name, **network.config}


def check_group(group: str, network: PoseNetwork, third: str | None = None) -> str:
    """Refuses a group that the pose network cannot give, and chooses the third axis where it is left open.

    Returns:
        The rule for the third axis: "free" for O(3) and E(3), "cross" for SO(3) and SE(3).

    Raises:
        ConfigError: unknown group, or reflections asked of what is equivariant under rotations only.
    """
    if group not in GROUPS_OF_POSES:
        raise ConfigError(f'no poses for group "{group}"', expected=", ".join(GROUPS_OF_POSES))
    reflections = group in ("E(3)", "O(3)")
    rule = third or ("free" if reflections else "cross")
    if reflections and not (network.reflections and rule == "free"):
        raise ConfigError(
            f'"{group}" holds reflections, which this pose network or third axis does not follow',
            remedy=f'use group "{"SE(3)" if group == "E(3)" else "SO(3)"}"',
        )
    return rule


def is_smooth(network: PoseNetwork, cutoff: float, *, rigid: bool = True) -> bool:
    """Whether what is seen from the poses changes smoothly where pairs enter and leave.

    There is no such place on complete graphs. Where there is, a pose that stretches (`rigid` false) shows a pair at
    another length than the one by which it is listed, so that it appears inside the cutoff of the backbone.
    """
    if math.isinf(cutoff):
        return network.smooth or isinstance(network, VNDeepSets)
    return network.smooth and rigid
