"""`geomol bench sizes MODEL STRUCTURE`: what an atom costs as a structure grows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomol.bench.sizes import SizePoint, measure_sizes
from geomol.checkpoint import load_potential
from geomol.cli.arguments import (
    DeviceOption,
    DtypeOption,
    IndexOption,
    ModelArgument,
    StructureArgument,
    ThreadsOption,
    cpu_threads,
    structure_at,
)
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.errors import ConfigError
from geomol.report.cost_plots import size_figure


def sizes_command(
    model: ModelArgument,
    structure: StructureArgument,
    index: IndexOption = 0,
    atoms: Annotated[str, typer.Option("--atoms", metavar="N,N,…", help="Numbers of atoms.")] = "1000,3000,10000",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Calls of each size.")] = 3,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for sizes.json and sizes.png.")
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Time energy + forces of a periodic structure repeated to growing numbers of atoms, with the memory it takes."""
    try:
        sizes = [int(word) for word in atoms.split(",")]
    except ValueError:
        raise ConfigError("--atoms takes numbers", expected="such as 1000,10000", got=atoms) from None
    if min(sizes) < 1:
        raise ConfigError("--atoms takes positive numbers", got=atoms)
    potential = load_potential(model, device=device, dtype=dtype)
    console = console_for(json_file)

    def show(point: SizePoint) -> None:
        console.print(
            f"{point.num_atoms} atoms, {point.num_pairs} pairs: {1e3 * point.step_s:.4g} ms, {point.us_per_atom:.3g} "
            f"µs per atom, list {point.list_ns_per_pair:.3g} ns per pair, peak {point.peak_bytes / 1e6:.4g} MB",
            soft_wrap=True,
        )

    with cpu_threads(threads):
        points = measure_sizes(potential, structure_at(structure, index), sizes, rounds=rounds, on_point=show)
    first, last = points[0], points[-1]
    console.print(
        f"cost of an atom at {last.num_atoms} atoms ÷ at {first.num_atoms}: {last.us_per_atom / first.us_per_atom:.2f}"
    )
    figures = {"points": [point.figures() for point in points]}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(figures, str(out / "sizes.json"))
        columns = zip(*((p.num_atoms, p.step_s, p.peak_bytes) for p in points), strict=True)
        size_figure(*map(list, columns)).savefig(out / "sizes.png", metadata={"Software": None})
        console.print(f"plot: {out / 'sizes.png'}", soft_wrap=True)
    write_json(figures, json_file)
