"""A trained model as an ASE calculator: relax ethanol, then 50 fs of molecular dynamics at constant energy."""

import numpy as np
from ase.build import molecule
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import fs

from geomol import GeomolCalculator

atoms = molecule("CH3CH2OH")
atoms.calc = GeomolCalculator("ethanol-egnn")
BFGS(atoms, logfile=None).run(fmax=0.02, steps=100)
print(f"relaxed: {atoms.get_potential_energy():.3f} eV, C–O {atoms.get_distance(1, 2):.3f} Å")

MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
dynamics = VelocityVerlet(atoms, timestep=0.5 * fs)
start = atoms.get_total_energy()
dynamics.run(100)
print(f"energy changed by {1e3 * (atoms.get_total_energy() - start):.2f} meV in 50 fs")
