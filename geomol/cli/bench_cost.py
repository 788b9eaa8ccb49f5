"""`geomol bench cost MODEL STRUCTURE`: what a call of energy and forces costs, once it is known to be right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from geomol.bench import CallReport, FormReport, measure_call
from geomol.bench.gates import REPEATS
from geomol.checkpoint import load_potential
from geomol.checkpoint.atomic import write_atomically
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
from geomol.report.cost_plots import call_figure


def cost_command(
    model: ModelArgument,
    structure: StructureArgument,
    index: IndexOption = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Calls of each form, in turn.")] = 50,
    compiled: Annotated[bool, typer.Option("--compile", help="Measure the compiled step too.")] = False,
    packaged: Annotated[bool, typer.Option("--package", help="Measure what `geomol export` writes too.")] = False,
    tables: Annotated[bool, typer.Option("--tabulate", help="Measure kernels read from tables too.")] = False,
    drift: Annotated[bool, typer.Option("--drift", help="Also run 0.2 ps at constant energy.")] = False,
    products: Annotated[
        str, typer.Option("--products", help="Digits: highest, high (TF32 on a GPU) or medium (bfloat16 on a CPU).")
    ] = "highest",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for cost.md, cost.json and cost.png.")
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Check and time calls of a model through ASE, its forms in turn: a plain eager version where there is one, the
    model as it is, compiled, packaged, and each of these with kernels read from tables. Says how near they come to
    what this machine can do.

    Fails if the forces are not the gradient, if the energy of an exactly symmetric model changes with the pose, if a
    form computes something else than the weights in float64, or if the same call gives other bits.
    """
    potential = load_potential(model, device=device, dtype=dtype)
    atoms = structure_at(structure, index)
    console = console_for(json_file)
    with cpu_threads(threads), console.status("measuring"):
        report = measure_call(
            potential,
            atoms,
            rounds=rounds,
            compiled=compiled,
            packaged=packaged,
            tables=tables,
            drift=drift,
            products=products,
        )
    page = "\n".join(_page(model, report, rounds))
    console.print(Markdown(page))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "cost.md", page.encode())
        write_json(report.figures(), str(out / "cost.json"))
        figure = call_figure(
            [form.name for form in report.forms],
            [(f.timing.lower_s, f.timing.median_s, f.timing.upper_s) for f in report.forms],
            [form.ratio for form in report.forms],
            report.machine.floor_s(report.work),
        )
        figure.savefig(out / "cost.png", metadata={"Software": None})
        console.print(f"plot: {out / 'cost.png'}", soft_wrap=True)
    write_json(report.figures(), json_file)
    if report.failed:
        raise typer.Exit(1)


def _page(model: str, report: CallReport, rounds: int) -> list[str]:
    """The report as markdown."""
    first, gates, work, machine = report.forms[0].name, report.gates, report.work, report.machine
    pose = "" if gates.is_exact else " (not exact by construction)"
    floor, stream = 1e3 * machine.floor_s(work), 1e3 * machine.stream_s(work)
    lines = [
        f"# {model}: {report.num_atoms} atoms, {report.num_edges} edges, {report.dtype}, products {report.products}, "
        f"{report.threads} threads",
        "",
        f"| energy + forces through ASE, {rounds} rounds | ms per call (quartiles) | {first} ÷ this | "
        "force error: largest, rms, meV/Å | runs with other bits |",
        "|---|---|---|---|---|",
        *map(_form, report.forms),
        "",
        "| stage of an eager call | ms (quartiles) |",
        "|---|---|",
        *(f"| {t.stage} | {_quartiles(t.median_s, t.lower_s, t.upper_s)} |" for t in report.stages),
        "",
        f"- Gates, in float64: gradient {gates.gradient_error:.1e} of the rms force, rotation "
        f"{gates.rotation_error:.1e} of rms force × √N × 1 Å{pose}; rms force {1e3 * gates.rms_force:.3g} meV/Å. Force "
        "errors are those against float64 of the same weights.",
        f"- Products of matrices: {work.flops / 1e9:.3g} GFLOP, {floor:.2f} ms at the "
        f"{machine.flops_per_s / 1e9:.3g} GFLOP/s of a large one: {100 * report.of_floor:.0f} % of forward and "
        "backward.",
        f"- Traffic, were nothing fused or cached: {work.bytes / 1e6:.3g} MB, {stream:.2f} ms at the "
        f"{machine.bytes_per_s / 1e9:.3g} GB/s of a large copy.",
    ]
    if report.drift is not None:
        lines.append(
            f"- Drift at constant energy, {report.drift_steps} steps of 0.5 fs from 300 K, {report.forms[-1].name}: "
            f"{report.drift.value:.3g} ± {report.drift.half_width:.2g} meV per atom per ns."
        )
    lines += [f"- **Does not hold**: {what}." for what in report.failed]
    return [*lines, ""]


def _form(form: FormReport) -> str:
    t, gates = form.timing, form.gates
    errors = f"{1e3 * gates.force_max_eV_per_A:.2g}, {1e3 * gates.force_rms_eV_per_A:.2g}"
    ratio = "–" if form.ratio is None else f"{form.ratio:.2f}"
    bits = f"{gates.other_bits} of {REPEATS}"
    return f"| {form.name} | {_quartiles(t.median_s, t.lower_s, t.upper_s)} | {ratio} | {errors} | {bits} |"


def _quartiles(median: float, lower: float, upper: float) -> str:
    return f"{1e3 * median:.2f} ({1e3 * lower:.2f} – {1e3 * upper:.2f})"
