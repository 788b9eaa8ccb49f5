"""Symmetries as settings: groups and their actions, wrappers that give any backbone a symmetry, and their audit."""

from geomol.symmetry.augmentation import LearnedAugmentation, TestTimeAverage
from geomol.symmetry.build import BACKBONES, SYMMETRISERS, backbone_config, build_backbone, with_elements
from geomol.symmetry.canonical import Canonicalised
from geomol.symmetry.frame_averaging import FrameAveraging
from geomol.symmetry.galilean import Galilean
from geomol.symmetry.on_backbone import OnBackbone
from geomol.symmetry.orbit_distance import OrbitDistance
from geomol.symmetry.part_frames import PartFrames
from geomol.symmetry.poses import Poses, Symmetriser, average_over_poses, centroids, pose_graph
from geomol.symmetry.probabilistic import ProbabilisticSymmetrisation

__all__ = [
    "BACKBONES",
    "SYMMETRISERS",
    "Canonicalised",
    "FrameAveraging",
    "Galilean",
    "LearnedAugmentation",
    "OnBackbone",
    "OrbitDistance",
    "PartFrames",
    "Poses",
    "ProbabilisticSymmetrisation",
    "Symmetriser",
    "TestTimeAverage",
    "average_over_poses",
    "backbone_config",
    "build_backbone",
    "centroids",
    "pose_graph",
    "with_elements",
]
