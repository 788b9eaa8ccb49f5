"""Ethanol in vacuum at constant temperature.

Physics: the canonical ensemble of one molecule. A Langevin thermostat acts on all 27 momenta, so the molecule also
diffuses and turns; Bussi and Nosé–Hoover act on the 21 that remain without translation and rotation. In each case
2 E_kin / (k_B T) is χ²-distributed with that many freedoms, so the temperature fluctuates by T √(2 / freedoms):
82 K for Langevin and 93 K for the others at 300 K.

Protocol: the geometry of ASE's g2 set, relaxed; 20 ps at 0.5 fs and 300 K; Langevin friction 10 / ps, or a time
constant of 100 fs. The first tenth is left out of the averages.

Units: K, Å, eV, fs.

Expected: a mean temperature of 300 K within its interval; C–C 1.52, C–O 1.42, C–H 1.10, O–H 0.97 Å, each within 0.03 Å.
With several models also the spread of the forces between them, which should stay near the test error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.build import molecule
from ase.io import read

from geomol.md import GeomolCalculator, MDConfig, Progress, bond_lengths, mean_with_interval, read_table, relax, run_md


def show(progress: Progress) -> None:
    if progress.step % 2000 == 0:
        print(
            f"{progress.time_fs / 1000:7.2f} ps  {progress.temperature_K:6.0f} K  "
            f"{progress.ns_per_day:.2f} ns/day  {progress.eta_s:.0f} s left",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["ethanol-egnn"], help="names in models/ or paths")
    parser.add_argument("--steps", type=int, default=40_000, help="steps of 0.5 fs")
    parser.add_argument("--thermostat", choices=["langevin", "bussi", "nose-hoover"], default="langevin")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--out", type=Path, default=Path("runs/nvt_ethanol"))
    args = parser.parse_args()

    calculator = GeomolCalculator(args.model)
    atoms = relax(molecule("CH3CH2OH"), calculator, fmax=1e-3).atoms
    config = MDConfig(
        ensemble=f"nvt-{args.thermostat}",
        steps=args.steps,
        timestep_fs=0.5,
        temperature_K=args.temperature,
        interval=20,
    )
    run = run_md(atoms, calculator, config, args.out, on_progress=show, resume=True)

    table = read_table(run.table)
    late = len(table["time_fs"]) // 10
    mean = mean_with_interval(table["temperature_K"][late:])
    freedoms = run.summary["degrees_of_freedom"]
    print(f"temperature {mean.value:.1f} ± {mean.half_width:.1f} K (95 %), target {args.temperature:g} K")
    print(
        f"fluctuation {table['temperature_K'][late:].std():.1f} K, "
        f"canonical value {args.temperature * (2 / freedoms) ** 0.5:.1f} K"
    )
    mean = mean_with_interval(table["kinetic_eV"][late:])
    print(f"kinetic energy {mean.value:.4f} eV, equipartition {0.5 * freedoms * units.kB * args.temperature:.4f} eV")
    frames = read(run.trajectory, index=":")[late // 2 :]
    for name, lengths in bond_lengths(frames).items():
        print(f"{name}: {lengths.mean():.3f} ± {lengths.std():.3f} Å (mean and standard deviation)")
    if len(args.model) > 1:
        spread = []
        for frame in frames[:: max(1, len(frames) // 50)]:
            frame.calc = calculator
            frame.get_forces()
            spread.append(np.sqrt((calculator.results["forces_std"] ** 2).mean()))
        print(f"deviation of the forces between models: {1000 * np.mean(spread):.1f} meV/Å")


if __name__ == "__main__":
    main()
