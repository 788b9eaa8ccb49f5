"""The models and symmetry modes that are held to the contract, what each claims, and which checks follow from that."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from ase import Atoms

from geomol import checks
from geomol.graph import build_graph
from geomol.models import Calibrated, Symmetry
from geomol.potential import Potential
from geomol.symmetry import build_backbone, with_elements

ALL_ELEMENTS = sorted({1, 5, 6, 7, 8, 9, 11, 14, 16, 17, 26, 29})

_MPNN = {"name": "mpnn", "channels": 8, "num_layers": 2, "cutoff": 4.0}
# poses that stretch need a backbone without a cutoff
_COMPLETE = {**_MPNN, "cutoff": math.inf, "envelope": False, "num_radial": 0}
_INVARIANT = {
    "name": "egnn",
    "channels": 8,
    "num_layers": 1,
    "cutoff": math.inf,
    "envelope": False,
    "num_radial": 0,
    "out_scalars": 2,
}
_FAENET = {"name": "faenet", "channels": 8, "filters": 8, "num_layers": 2, "num_radial": 8, "cutoff": 4.0}
_POSE = {"name": "egnn_vectors", "channels": 8, "num_layers": 1}

MODELS_ALONE: dict[str, dict[str, Any]] = {
    "egnn": {"name": "egnn", "channels": 16, "num_layers": 3, "cutoff": 4.0},
    "ponita": {"name": "ponita", "channels": 12, "num_layers": 3, "cutoff": 4.0},
    "ponita-design24": {"name": "ponita", "channels": 12, "num_layers": 2, "cutoff": 4.0, "orientations": "design24"},
    "pnita": {"name": "ponita", "channels": 16, "num_layers": 3, "cutoff": 4.0, "orientations": "none"},
    "pnita-polynomial": {
        "name": "ponita",
        "channels": 12,
        "num_layers": 2,
        "cutoff": 4.0,
        "orientations": "none",
        "kernel": "polynomial",
        "basis_dim": 16,
    },
    "rapidash": {
        "name": "rapidash",
        "channels": 12,
        "num_layers": 2,
        "cutoff": 4.0,
        "basis": "radial",
        "num_radial": 6,
    },
    "rapidash-r3": {
        "name": "rapidash",
        "channels": 12,
        "num_layers": 2,
        "cutoff": 4.0,
        "orientations": "none",
        "basis_dim": 16,
        "basis_hidden": 16,
    },
    "rapidash-t3": {
        "name": "rapidash",
        "channels": 12,
        "num_layers": 2,
        "cutoff": 4.0,
        "orientations": "none",
        "kernel_group": "T(n)",
        "basis_dim": 16,
        "basis_hidden": 16,
    },
    "lennard_jones": {"name": "lennard_jones", "epsilon": 0.3, "sigma": 1.2, "cutoff": 4.0},
    "morse": {"name": "morse", "cutoff": 4.0},
    "mpnn": _MPNN,
    "painn": {"name": "painn", "channels": 12, "num_layers": 2, "cutoff": 4.0},
    "transformer": {**_MPNN, "name": "transformer", "num_heads": 2},
    "faenet": _FAENET,
    "deep_sets": {"name": "deep_sets", "channels": 8, "num_layers": 2, "pool": "sum", "activation": "silu"},
    "edm_egnn": {"name": "edm_egnn", "channels": 16, "num_layers": 2},
    "conditioned_egnn": {
        "name": "conditioned_egnn",
        "channels": 16,
        "pair_channels": 8,
        "num_layers": 2,
        "softness": 0.3,
    },
}
WRAPPED: dict[str, dict[str, Any]] = {
    "robust-mpnn": {"name": "frame_averaging", "frames": "robust", "bound": 0.85, "backbone": _MPNN},
    "robust-faenet": {
        "name": "frame_averaging",
        "frames": "robust",
        "group": "SE(3)",
        "bound": 0.85,
        "backbone": _FAENET,
    },
    "canonical-soft": {"name": "canonical", "pose": _POSE, "softness": 1.0, "backbone": _COMPLETE},
    "part-frames": {
        "name": "part_frames",
        "frames": "robust",
        "outside": "contracted",
        "least": 0.0,
        "parts": {"name": "learned", "num_parts": 2, "sharpness": 1.0, "backbone": _INVARIANT},
        "backbone": {**_COMPLETE, "in_scalars": 1},
    },
    "orbit-distance": {"name": "orbit_distance", "pose": _POSE, "backbone": _COMPLETE},
    "probabilistic": {
        "name": "probabilistic",
        "pose": {**_POSE, "num_noise": 1},
        "softness": 1.0,
        "samples": 4,
        "backbone": _COMPLETE,
    },
    "octahedral-average": {"name": "test_time_average", "rotations": "octahedral", "backbone": _MPNN},
    "learned-rotations": {
        "name": "learned_augmentation",
        "generators": ["rotations", "translations"],
        "samples": 4,
        "backbone": _MPNN,
    },
    "learned-affine": {"name": "learned_augmentation", "samples": 4, "backbone": _COMPLETE},
}
MODES = {**MODELS_ALONE, **WRAPPED}

# energies that jump, which a Potential takes on request only: settings, and the fault that it names
JUMPING: dict[str, tuple[dict[str, Any], str]] = {
    "pca": ({"name": "frame_averaging", "frames": "pca", "backbone": _MPNN}, "pose of a structure is not unique"),
    "single": ({"name": "frame_averaging", "frames": "single", "backbone": _MPNN}, "pose of a structure is not unique"),
    "canonical": ({"name": "canonical", "pose": _POSE, "backbone": _MPNN}, "pose of a structure is not unique"),
    "canonical-soft": ({"name": "canonical", "pose": _POSE, "softness": 1.0, "backbone": _MPNN}, "crosses the cutoff"),
    "probabilistic": (
        {"name": "probabilistic", "pose": {**_POSE, "num_noise": 1}, "softness": 1.0, "backbone": _MPNN},
        "crosses the cutoff",
    ),
    "learned-affine": ({"name": "learned_augmentation", "samples": 4, "backbone": _MPNN}, "crosses the cutoff"),
    "mpnn": ({**_MPNN, "envelope": False}, "crosses the cutoff"),
    "rapidash": ({**MODELS_ALONE["rapidash-r3"], "envelope": False}, "crosses the cutoff"),
}

# registered, but no energies to be had from them: settings, and why
NO_POTENTIALS: dict[str, tuple[dict[str, Any], str]] = {
    "fa_gnn": ({"name": "fa_gnn", "channels": 6}, "predicts displacements of particles with charges and velocities"),
    "galilean": ({"name": "galilean", "backbone": _MPNN}, "needs velocities, on which energies do not depend"),
    "linear_motion": ({"name": "linear_motion"}, "displacements alone, from velocities"),
    "radial_field": ({"name": "radial_field"}, "displacements alone, from velocities and charges"),
    "pair_transformer": (
        {
            "name": "pair_transformer",
            "num_nodes": 9,
            "out_scalars": 1,
            "out_vectors": 0,
            "edge_inputs": ["squared_distance"],
            "channels": 8,
            "num_heads": 2,
            "num_layers": 1,
        },
        "tells the nodes of structures of one size apart by their numbers",
    ),
}

# what is said of a crystal by those that cannot take one
MOLECULES_ONLY = {
    "deep_sets": "cannot read a periodic structure|no periodic form",
    "edm_egnn": "cannot read a periodic structure|no periodic form",
    "conditioned_egnn": "cannot read a periodic structure|no periodic form",
    "robust-mpnn": "change when its atoms are wrapped",
    "robust-faenet": "change when its atoms are wrapped",
    "canonical-soft": "no periodic form",
    "part-frames": "no periodic form",
    "orbit-distance": "no periodic form",
    "probabilistic": "no periodic form",
    "learned-affine": "no periodic form",
}


@functools.cache
def claim(mode: str) -> Symmetry:
    """What the model says of itself."""
    found: Symmetry = build_backbone(with_elements(MODES[mode], ALL_ELEMENTS)).symmetry  # type: ignore[assignment]
    return found


def claiming(holds: Callable[[Symmetry], bool]) -> list[str]:
    return [mode for mode in MODES if holds(claim(mode))]


TURNING = ("E(3)", "SE(3)")
EXACT = claiming(lambda s: s.group in TURNING and s.exact and not s.stochastic)
MIRRORED = [mode for mode in EXACT if claim(mode).group == "E(3)"]
CHIRAL = [mode for mode in EXACT if claim(mode).group == "SE(3)"]
APPROXIMATE = claiming(lambda s: s.group in TURNING and not s.exact)
PLAIN = claiming(lambda s: s.group == "T(3)")
IN_LAW = claiming(lambda s: s.stochastic)
CERTAIN = claiming(lambda s: not s.stochastic)
SEPARABLE = claiming(lambda s: s.separable)
ENTANGLED = claiming(lambda s: not s.separable)
LEARNED = [mode for mode in MODES if mode not in ("lennard_jones", "morse")]
PERIODIC = [mode for mode in MODES if mode not in MOLECULES_ONLY]
CUT = [mode for mode in MODES if math.isfinite(MODES[mode].get("backbone", MODES[mode]).get("cutoff", math.inf))]
CONTINUOUS = claiming(lambda s: s.continuous and s.smooth)


def make(
    mode: str,
    *,
    seed: int = 0,
    elements: list[int] = ALL_ELEMENTS,
    dtype: torch.dtype = torch.float64,
    zbl: bool = False,
    **changes: object,
) -> Potential:
    """The mode with random weights, made such that forces are of order one."""
    return potential_of(
        {**MODES[mode], **changes},
        seed=seed,
        elements=elements,
        dtype=dtype,
        zbl=zbl,
        calibrated=MODES[mode]["name"] != "ponita",
    )


def potential_of(
    config: dict[str, Any],
    *,
    seed: int = 0,
    elements: list[int] = ALL_ELEMENTS,
    dtype: torch.dtype = torch.float64,
    zbl: bool = False,
    calibrated: bool = True,
    allow_discontinuous: bool = False,
) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = build_backbone(with_elements(config, elements))
        for weight in backbone.parameters():
            if weight.dim() > 1 and not weight.any():  # layers that start as nothing, or forces would be zero
                torch.nn.init.xavier_normal_(weight)
        if calibrated and isinstance(backbone, Calibrated):
            backbone.double().eval().calibrate(build_graph(molecules(4), backbone.cutoff))
    e0 = [-(1.0 + 0.37 * z) for z in elements]
    potential = Potential(
        backbone, elements=elements, e0=e0, scale=1.0, zbl=zbl, allow_discontinuous=allow_discontinuous
    )
    return potential.to(dtype).eval()


def molecules(num: int) -> list[Atoms]:
    return checks.disordered_molecules(num, seed=1, displacement=0.1)


def crystals(num: int) -> list[Atoms]:
    return checks.disordered_crystals(num, seed=2)
