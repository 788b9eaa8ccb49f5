"""`geomol relax MODEL in.xyz`: the nearest local minimum of each structure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from geomol.cli.arguments import (
    BatchOption,
    DataArgument,
    DeviceOption,
    DtypeOption,
    ModelArgument,
    ThreadsOption,
    cpu_threads,
)
from geomol.cli.calculators import calculator_of
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.cli.progress import progress_bar
from geomol.data import Structures, load_frames, write_extxyz
from geomol.errors import GeomolError
from geomol.md import GeomolCalculator, RelaxResult, relax, relax_batched
from geomol.md.batched_forces import check_structures

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
    optimiser: Annotated[
        str, typer.Option(help="bfgs (one structure after the other) or fire (many at once, unless --cell).")
    ] = "bfgs",
    batch_size: BatchOption = 256,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Relax every structure of a file. Ends with code 1 if one of them needs more steps.

    Fixed atoms stay where they are; all structures are checked before the first one moves.
    """
    frames = load_frames(data)
    calculator = calculator_of(model, device=device, dtype=dtype)
    check_structures(calculator, frames)
    console = console_for(json_file)
    method = cast(Literal["bfgs", "fire"], optimiser)
    relaxed: list[Atoms] = []
    figures = []
    try:
        with cpu_threads(threads):
            if method == "fire" and not cell:
                results = iter(relax_many(frames, calculator, fmax, steps, batch_size))
            else:
                results = relax_each(frames, calculator, fmax, steps, cell, method)
            for i, result in enumerate(results):
                relaxed.append(snapshot(result.atoms))
                figures.append(figures_of(result))
                state = "converged" if result.converged else "NOT CONVERGED"
                console.print(
                    f"{i:6d}  {result.steps:5d} steps  {result.energy:.6f} eV  {1e3 * result.fmax:.2f} meV/Å  {state}"
                )
    finally:  # what is finished outlives a later failure
        if relaxed:
            write_extxyz(out, Structures.from_atoms(relaxed, name=str(out)), relaxed)
            console.print(f"relaxed: {out}", soft_wrap=True)
    write_json({"structures": figures}, json_file)
    if not all(entry["converged"] for entry in figures):
        raise typer.Exit(NOT_CONVERGED)


def relax_each(
    frames: list[Atoms],
    calculator: GeomolCalculator,
    fmax: float,
    steps: int,
    cell: bool,
    optimiser: Literal["bfgs", "fire"],
) -> Iterator[RelaxResult]:
    """Relax one structure after the other.

    Raises:
        GeomolError: as `relax`, naming the structure.
    """
    for i, atoms in enumerate(frames):
        try:
            result = relax(atoms, calculator, fmax, steps, cell, optimiser=optimiser)
        except GeomolError as error:
            raise error.within(f"structure {i}") from error
        yield result


def relax_many(
    frames: list[Atoms], calculator: GeomolCalculator, fmax: float, steps: int, batch_size: int
) -> list[RelaxResult]:
    """Relax many structures at once, with a bar."""
    with progress_bar("fire") as bar:

        def show(finished: int, total: int) -> None:
            if bar.due() or finished == total:
                bar.update(finished / total, f"{finished} of {total} structures")

        results = relax_batched(frames, calculator, fmax, steps, batch_size=batch_size, on_progress=show)
    for result in results:
        if result.atoms.pbc.any():
            result.atoms.calc = calculator  # knows the stress too
    return results


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
    # as the model gives them: a reader of fixed atoms sets their forces to zero itself
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(apply_constraint=False)}
    if atoms.pbc.any() and atoms.cell.rank == 3:
        results["stress"] = atoms.get_stress(apply_constraint=False)
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy
