"""`geomol relax MODEL in.xyz`: the nearest local minimum of each structure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from geomol.checkpoint import load_potential
from geomol.cli.arguments import DataArgument, DeviceOption, DtypeOption, ModelArgument, ThreadsOption, cpu_threads
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.data import Structures, load_structures, write_extxyz
from geomol.md import GeomolCalculator, RelaxResult, relax

NOT_CONVERGED = 1


def relax_command(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="An extended xyz file.")] = Path(
        "relaxed.xyz"
    ),
    cell: Annotated[bool, typer.Option("--cell", help="Relax the lattice vectors too.")] = False,
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Most steps per structure.")] = 500,
    optimiser: Annotated[str, typer.Option(help="bfgs or fire.")] = "bfgs",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Relax every structure of a file. Ends with code 1 if one of them needs more steps."""
    structures = load_structures(data)
    calculator = GeomolCalculator(load_potential(model, device=device, dtype=dtype))
    console = console_for(json_file)
    relaxed, figures = [], []
    for i in range(len(structures)):
        method = cast(Literal["bfgs", "fire"], optimiser)
        with cpu_threads(threads):
            result = relax(structures.to_atoms(i), calculator, fmax, steps, cell, optimiser=method)
        relaxed.append(snapshot(result.atoms))
        figures.append(figures_of(result))
        state = "converged" if result.converged else "NOT CONVERGED"
        console.print(
            f"{i:6d}  {result.steps:5d} steps  {result.energy:.6f} eV  {1e3 * result.fmax:.2f} meV/Å  {state}"
        )
    write_extxyz(out, Structures.from_atoms(relaxed, name=str(out)))
    console.print(f"relaxed: {out}", soft_wrap=True)
    write_json({"structures": figures}, json_file)
    if not all(entry["converged"] for entry in figures):
        raise typer.Exit(NOT_CONVERGED)


def figures_of(result: RelaxResult) -> dict[str, object]:
    """One relaxation as figures."""
    return {
        "converged": result.converged,
        "steps": result.steps,
        "energy_eV": result.energy,
        "fmax_eV_per_A": result.fmax,
    }


def snapshot(atoms: Atoms) -> Atoms:
    """A copy that keeps the results of the calculator, which goes on to the next structure."""
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.any() and atoms.cell.rank == 3:
        results["stress"] = atoms.get_stress()
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy
