"""A simulation to be killed: python md_target.py FOLDER ENSEMBLE STEPS."""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import bulk

from geomol.md import GeomolCalculator, MDConfig, run_md
from geomol.models.pair import Morse
from geomol.potential import Potential


def simulate(folder: Path, ensemble: str, steps: int) -> None:
    """Four copper atoms, in a crystal smaller than the cutoff or as a cluster, continued if there is a checkpoint."""
    atoms = bulk("Cu", "fcc", a=3.9, cubic=True)
    atoms.pbc = ensemble in ("nve", "npt")
    atoms.rattle(0.05, seed=1)
    config = MDConfig(
        ensemble=ensemble, steps=steps, timestep_fs=3.0, temperature_K=300, interval=3, log_interval=2,
        checkpoint_interval=17, seed=5, barostat_fs=300.0, friction_per_ps=5.0,
    )  # fmt: skip
    potential = Potential(Morse(elements=[29], cutoff=4.2), elements=[29], e0=[-1.5])
    run_md(atoms, GeomolCalculator(potential, skin=0.4), config, folder, resume=True)


if __name__ == "__main__":
    print("ready", flush=True)
    simulate(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
