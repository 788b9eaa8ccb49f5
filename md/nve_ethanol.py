"""Energy conservation of ethanol in vacuum.

Physics: velocity Verlet keeps a shadow energy near the true one. With forces that are exactly −∂E/∂x of a smooth
energy, the total energy then fluctuates by an amount that falls with the square of the time step, and does not drift.
A cutoff that is not smooth, float32 noise or forces from a direct head show up here first.

Protocol: the geometry of ASE's g2 set, relaxed; Maxwell–Boltzmann momenta at 500 K (seed 0) without translation and
rotation; 20 ps at 0.5 fs. Then 1 ps from the same start at 0.5, 0.25 and 0.125 fs.

Units: eV, Å, fs, K; the drift in meV per atom per ns, the slope of a least-squares line with a 95 % interval that
allows for the correlation of successive values.

Expected: |drift| at most 1 meV/atom/ns, and ratios of the energy fluctuation of 4 ± 0.4.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ase import Atoms
from ase.build import molecule

from geomol.md import GeomolCalculator, MDConfig, Progress, read_table, relax, run_md


def show(progress: Progress) -> None:
    if progress.step % 2000 == 0:
        print(
            f"{progress.time_fs / 1000:7.2f} ps  {progress.temperature_K:6.0f} K  E {progress.total_eV:.6f} eV  "
            f"{progress.ns_per_day:.2f} ns/day  {progress.eta_s:.0f} s left",
            flush=True,
        )


def fluctuation(atoms: Atoms, calculator: GeomolCalculator, out: Path, timestep_fs: float, length_fs: float) -> float:
    """Standard deviation of the total energy over the same stretch of time, eV."""
    config = MDConfig(
        ensemble="nve",
        steps=max(1, round(length_fs / timestep_fs)),
        timestep_fs=timestep_fs,
        temperature_K=500,
        interval=1000,
        log_interval=1,
        name=f"dt_{timestep_fs:g}fs",
    )
    run = run_md(atoms, calculator, config, out, resume=True)
    return float(read_table(run.table)["total_eV"].std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ethanol-egnn", help="name in models/ or path")
    parser.add_argument("--steps", type=int, default=40_000, help="steps of 0.5 fs")
    parser.add_argument("--out", type=Path, default=Path("runs/nve_ethanol"))
    args = parser.parse_args()

    calculator = GeomolCalculator(args.model, dtype=torch.float64)
    atoms = relax(molecule("CH3CH2OH"), calculator, fmax=1e-3).atoms
    config = MDConfig(ensemble="nve", steps=args.steps, timestep_fs=0.5, temperature_K=500, interval=20, log_interval=4)
    run = run_md(atoms, calculator, config, args.out, on_progress=show, resume=True)
    drift, interval = (run.summary[f"drift{part}_meV_per_atom_per_ns"] for part in ("", "_95"))
    # too short a run has no interval
    print(f"drift {drift:+.4f} ± {'?' if interval is None else f'{interval:.4f}'} meV/atom/ns (95 %)")

    steps, length = (0.5, 0.25, 0.125), min(1000.0, args.steps * 0.5)
    widths = [fluctuation(atoms, calculator, args.out, dt, length) for dt in steps]
    for dt, width in zip(steps, widths, strict=True):
        print(f"time step {dt:5g} fs: energy fluctuation {1000 * width / len(atoms):.5f} meV/atom")
    print(f"ratios {widths[0] / widths[1]:.3f} and {widths[1] / widths[2]:.3f} (4 for a second-order integrator)")


if __name__ == "__main__":
    main()
