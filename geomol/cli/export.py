"""`geomol export MODEL -o FILE.pt2`: a potential compiled ahead of time, with all that is needed to run it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from geomol.checkpoint import load_potential, model_hash, read_manifest
from geomol.cli.arguments import DeviceOption, DtypeOption, ModelArgument, TabulateOption, ThreadsOption, cpu_threads
from geomol.cli.output import JsonOption, console_for, write_json
from geomol.compiled import export_package, tabulated


def export_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The package, a .pt2 file.")] = Path(
        "model.pt2"
    ),
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    tabulate: TabulateOption = False,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compile energy, forces and stress into one file, checked against the model. Takes minutes and a C++ compiler.

    The file runs under the same version of torch on the same kind of processor: geomol md FILE, geomol relax FILE, and
    in Python GeomolCalculator.from_package(FILE).
    """
    potential = load_potential(model, device=device, dtype=dtype)
    source = read_manifest(model)
    provenance = {"sha256": model_hash(model), "errors": source.get("errors"), "symmetry": source.get("symmetry")}
    console = console_for(json_file)
    start = time.perf_counter()
    with cpu_threads(threads), console.status("compiling"):
        potential = tabulated(potential) if tabulate else potential
        manifest = export_package(potential, out, provenance=provenance)
    seconds = time.perf_counter() - start
    console.print(f"package: {out}  ({out.stat().st_size / 1e6:.1f} MB, compiled and checked in {seconds:.0f} s)")
    write_json({"package": str(out), "seconds": seconds, **manifest}, json_file)
