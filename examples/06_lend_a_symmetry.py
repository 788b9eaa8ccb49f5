"""Lend a symmetry to a network that has none: frames, a learned pose, random poses, and what each leaves over."""

import torch

from geomol.checks import disordered_molecules, rotation_errors
from geomol.errors import ConfigError
from geomol.potential import Potential
from geomol.symmetry import build_backbone, with_elements

elements = [1, 6, 7, 8]
plain = {"name": "mpnn", "channels": 16, "num_layers": 2, "cutoff": 4.5}
choices = {
    "nothing": plain,
    "robust frames": {"name": "frame_averaging", "frames": "robust", "backbone": plain},
    "PCA frames": {"name": "frame_averaging", "frames": "pca", "backbone": plain},
    "a learned pose": {"name": "canonical", "pose": {"name": "egnn_vectors"}, "backbone": plain},
    "24 rotations": {"name": "test_time_average", "rotations": "octahedral", "backbone": plain},
}
molecules = disordered_molecules(3)
print(f"{'the network and …':20s} {'claim':>8s} {'continuous':>11s} {'rotation error':>15s}")
for name, config in choices.items():
    torch.manual_seed(0)
    backbone = build_backbone(with_elements(config, elements))
    claim = backbone.symmetry
    # where energies may jump a potential wants to be told that this is known: forces cannot follow a jump
    accept = not (claim.continuous and claim.smooth)
    potential = Potential(backbone, elements=elements, e0=[0.0] * 4, allow_discontinuous=accept).double()
    error = max(rotation_errors(potential, atoms, 5)[0] for atoms in molecules)
    print(f"{name:20s} {claim.group:>8s} {claim.continuous!s:>11s} {error:15.1e}")
    if claim.group == "E(3)" and claim.exact:
        assert error < 1e-9

try:
    Potential(build_backbone(with_elements(choices["PCA frames"], elements)), elements=elements, e0=[0.0] * 4)
except ConfigError as error:
    print(f"refused: {error}")
