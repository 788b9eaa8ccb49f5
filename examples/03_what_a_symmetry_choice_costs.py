"""Symmetry as a setting, and its effect measured: rotation error and time of four ways to treat orientation."""

import time

import numpy as np
import torch

from geomol.checks import disordered_molecules, rotation_errors
from geomol.graph import build_graph
from geomol.models import EGNN, Ponita
from geomol.potential import Potential

elements = [1, 6, 7, 8]
shared = {"elements": elements, "channels": 32, "num_layers": 2, "cutoff": 4.5}
torch.manual_seed(0)
choices = {
    "EGNN": EGNN(**shared),
    "R³": Ponita(orientations="none", **shared),
    "R³×S², 6 directions": Ponita(orientations="octahedral", **shared),
    "R³×S², 12 directions": Ponita(orientations="icosahedral", **shared),
    "R³×S², 24 directions (7-design)": Ponita(orientations="design24", **shared),
}
molecules = disordered_molecules(3)
print(f"{'choice':34s} {'claims exact':>12s} {'rotation error':>15s} {'ms per call':>12s}")
for name, backbone in choices.items():
    potential = Potential(backbone, elements=elements, e0=[0.0] * 4).double()
    error = max(rotation_errors(potential, atoms, 5)[0] for atoms in molecules)
    graph = build_graph(molecules, potential.cutoff)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        potential(graph)
        times.append(time.perf_counter() - start)
    print(f"{name:34s} {potential.symmetry.exact!s:>12s} {error:15.1e} {1e3 * np.median(times):12.1f}")
    assert (error < 1e-11) == potential.symmetry.exact
