"""A run of replicas to be killed: python batched_target.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import bulk

from geomol.md import GeomolCalculator, MDConfig
from geomol.md.batched import run_batched_md
from geomol.models.pair import Morse
from geomol.potential import Potential


def simulate(folder: Path) -> None:
    """Four copper atoms, as a crystal smaller than the cutoff and as a cluster, continued if there is a checkpoint."""
    crystal = bulk("Cu", "fcc", a=3.9, cubic=True)
    crystal.rattle(0.05, seed=1)
    cluster = crystal.copy()
    cluster.pbc = False
    config = MDConfig(
        steps=300, timestep_fs=3.0, temperature_K=300, interval=3, log_interval=2, checkpoint_interval=17, seed=5,
        friction_per_ps=5.0,
    )  # fmt: skip
    potential = Potential(Morse(elements=[29], cutoff=4.2), elements=[29], e0=[-1.5])
    run_batched_md([crystal, cluster], GeomolCalculator(potential, skin=0.4), config, folder, replicas=3, resume=True)


if __name__ == "__main__":
    print("ready", flush=True)
    simulate(Path(sys.argv[1]))
