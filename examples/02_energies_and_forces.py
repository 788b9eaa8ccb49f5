"""A backbone becomes a potential; forces are the derivative of its energy, whatever its symmetry."""

import torch
from ase.build import molecule

from geomol.graph import build_graph
from geomol.models import EGNN, Ponita
from geomol.potential import Potential

atoms = molecule("CH3CH2OH")
torch.manual_seed(0)
backbones = {
    "EGNN, E(3) exact": EGNN(elements=[1, 6, 8], channels=32, num_layers=3, cutoff=5.0),
    "PNITA on R³, E(3) exact": Ponita(elements=[1, 6, 8], orientations="none", channels=32, num_layers=3, cutoff=5.0),
    "PONITA on R³×S², 12 directions": Ponita(elements=[1, 6, 8], channels=32, num_layers=3, cutoff=5.0),
}
for name, backbone in backbones.items():
    potential = Potential(backbone, elements=[1, 6, 8], e0=[-13.6, -1029.0, -2042.0]).double()
    out = potential(build_graph(atoms, potential.cutoff))

    # the same force from a finite difference of the energy: move atom 2 by ±h along x
    h, energies = 1e-4, []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[2, 0] += sign * h
        energies.append(potential(build_graph(moved, potential.cutoff), forces=False).energy.item())
    numeric = (energies[1] - energies[0]) / (2 * h)
    print(f"{name}: E = {out.energy.item():.4f} eV, F = {out.forces[2, 0]:.6f} eV/Å, by differences {numeric:.6f}")
    assert abs(out.forces[2, 0].item() - numeric) < 1e-6
