"""`geomol sample MODEL -n 100 -o mols.sdf`: molecules, or clouds of points, out of noise."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from rich.console import Console

from geomol.checkpoint import load_denoiser, load_potential, model_hash
from geomol.cli.arguments import DeviceOption, DtypeOption, ModelArgument, ThreadsOption, key_values
from geomol.cli.output import JsonOption, console_for, print_figures, write_json
from geomol.cli.progress import progress_bar
from geomol.cli.sample_clouds import DEFAULT_OUT, refuse_for_clouds, sample_clouds
from geomol.cli.sampling_bar import sample_with_bar
from geomol.diffusion import SAMPLERS, Denoiser
from geomol.errors import ConfigError
from geomol.generate.control import read_lead, read_scaffold
from geomol.generate.driver import forget
from geomol.generate.molecules import Molecules
from geomol.generate.protocols import PROTOCOLS
from geomol.generate.relaxation import Relaxation
from geomol.generate.relaxers import Method, relax_molecules
from geomol.generate.request import Request, make_requests, parse_formula, parse_sizes
from geomol.generate.results import (
    check_output,
    known_orders,
    relaxed_structures,
    tags_of,
    to_molecules,
    write_molecules,
)
from geomol.generate.sampling import SampleSettings
from geomol.generate.score import Score, score
from geomol.generate.smiles import rdkit_version
from geomol.generate.strain import summarise
from geomol.potential import Potential
from geomol.report import write_gallery

BEST_CHURN, STEPS_FOR_CHURN = 20.0, 40


def sample_command(
    model: ModelArgument,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="How many molecules or clouds.")] = 100,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Molecules: .sdf (with bonds and tags), .xyz or .extxyz; clouds of points: .npz, .xyz or .ply.",
            show_default="molecules.sdf or clouds.npz",
        ),
    ] = None,
    n_atoms: Annotated[
        str, typer.Option("--n-atoms", help='Atoms per molecule, hydrogens included: "prior", 18, or 15-20.')
    ] = "prior",
    formula: Annotated[str | None, typer.Option("--formula", help="Make isomers of this, such as C7H10O2.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="NAME=VALUE",
            help="Wanted value of a property that the model was told; sizes are drawn to fit it.",
        ),
    ] = None,
    guidance: Annotated[float, typer.Option(help="How strongly targets pull; 1 is as trained.")] = 1.0,
    scaffold: Annotated[
        str | None,
        typer.Option("--scaffold", metavar="FILE", help="Keep these atoms where they are and build around them."),
    ] = None,
    open_atoms: Annotated[
        str | None, typer.Option("--grow", metavar="I,J", help="Atoms of the scaffold to take off first, from 0.")
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", metavar="FILE", help="Start from this molecule with --noise added.")
    ] = None,
    noise: Annotated[float, typer.Option("--noise", help="Å, for --like.")] = 0.6,
    index: Annotated[int, typer.Option("--index", help="Which record of --scaffold or --like, from 0.")] = 0,
    sampler: Annotated[str, typer.Option(help=f"One of {', '.join(SAMPLERS)}.")] = "heun",
    steps: Annotated[
        int, typer.Option(min=1, help="Noise levels; heun and midpoint call the model twice in each.")
    ] = 50,
    churn: Annotated[
        float | None,
        typer.Option(min=0, help="Noise put back on the way, for heun; 20 by default from 40 steps on, else 0."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the whole; every molecule has its own that follows from it.")] = 0,
    relax: Annotated[
        str | None, typer.Option("--relax", metavar="METHOD", help="mmff, xtb, or a potential (file or name).")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a gallery to look at; of clouds, a .png.")
    ] = None,
    trajectories: Annotated[
        int, typer.Option("--trajectories", min=0, help="Molecules whose way from noise the gallery shows.")
    ] = 4,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Molecules computed at once.")] = 64,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Make molecules. An interrupted run goes on with the same command; molecules depend on their seeds alone."""
    settings = SampleSettings(
        sampler=sampler, steps=steps, churn=_churn(churn, sampler, steps), guidance=guidance, batch_size=batch_size
    )
    settings.check()
    if guidance != 1 and not target:
        raise ConfigError("--guidance weighs targets, and none is given", remedy="give --target NAME=VALUE")
    denoiser = load_denoiser(model, device=device, dtype=dtype)
    if not denoiser.elements:
        of_molecules = {"--formula": formula, "--target": target, "--scaffold": scaffold, "--grow": open_atoms}
        refuse_for_clouds(model, {**of_molecules, "--like": like, "--relax": relax})
        sample_clouds(
            denoiser,
            model,
            num=num,
            out=out or DEFAULT_OUT,
            size=n_atoms,
            seed=seed,
            settings=settings,
            picture=html,
            threads=threads,
            json_file=json_file,
        )
        return
    out = out or Path("molecules.sdf")
    check_output(out)
    potential = None if relax in (None, "mmff", "xtb") else load_potential(relax, device=device)
    requests = _requests(
        denoiser,
        num,
        seed=seed,
        n_atoms=n_atoms,
        formula=formula,
        target=target or [],
        scaffold=(scaffold, open_atoms, index),
        like=(like, noise, index),
    )
    console = console_for(json_file)
    identity = model_hash(model)
    folder = out.with_name(f"{out.name}.partial")
    shown = range(min(trajectories, num)) if html is not None else range(0)
    sampled = sample_with_bar(
        denoiser,
        requests,
        settings,
        folder=folder,
        identity=identity,
        what="molecules",
        trajectories=shown,
        threads=threads,
    )
    made = sampled.made
    molecules = to_molecules(made)
    protocols = ["edm", *(["graph"] if denoiser.bonds is not None else [])]
    scores = {name: score(molecules, PROTOCOLS[name]) for name in protocols}
    relaxations = _relax(molecules, scores["edm"].verdicts.orders, relax, potential)
    tags = tags_of(made, molecules, scores, relaxations, {"model_sha256": identity[:16]})
    shown_structures = molecules.structures if not relaxations else relaxed_structures(relaxations)
    if relaxations:
        write_molecules(
            out.with_name(f"{out.stem}-raw{out.suffix}"), molecules.structures, molecules.orders or [], tags
        )
    write_molecules(out, shown_structures, molecules.orders or [], tags)
    facts = {
        "model": f"{model} ({identity[:12]})",
        "command": shlex.join(["geomol", *sys.argv[1:]]),
        "seed": str(seed),
        "sampler": f"{sampler}, {steps} steps, churn {settings.churn:g}, {settings.evaluations} evaluations",
        "RDKit": rdkit_version(),
    }
    if html is not None:
        write_gallery(
            html,
            molecules,
            scores,
            properties=_properties(tags, scores),
            relaxed=shown_structures if relaxations else None,
            trajectories={i: s.frames for i, s in enumerate(made) if s.frames is not None},
            title=f"{num} molecules of {model}",
            facts=facts,
        )
    forget(folder)
    figures = {
        "molecules": num,
        "sampling_s": sampled.seconds,
        **sampled.seconds_per(1000),
        "evaluations": settings.evaluations,
        "scores": {name: result.figures() for name, result in scores.items()},
    }
    if relaxations:
        figures["relaxation"] = summarise(relaxations).figures()
    _print(console, figures, scores, out, html)
    write_json({**figures, **facts}, json_file)


def _requests(
    denoiser: Denoiser,
    num: int,
    *,
    seed: int,
    n_atoms: str,
    formula: str | None,
    target: list[str],
    scaffold: tuple[str | None, str | None, int],
    like: tuple[str | None, float, int],
) -> list[Request]:
    """The options of the command as requests."""
    if sum(x is not None for x in (formula, scaffold[0], like[0])) > 1:
        raise ConfigError("--formula, --scaffold and --like exclude each other")
    if (formula is not None or like[0] is not None) and n_atoms != "prior":
        raise ConfigError("--n-atoms does not go with --formula or --like, which fix the number")
    context = {name: _number(name, text) for name, text in key_values(target).items()}
    return make_requests(
        num,
        seed=seed,
        sizes={} if formula is not None or like[0] is not None else parse_sizes(n_atoms, denoiser.sizes_for(context)),
        numbers=None if formula is None else parse_formula(formula),
        context=context,
        scaffold=None
        if scaffold[0] is None
        else read_scaffold(scaffold[0], index=scaffold[2], remove=_list(scaffold[1])),
        lead=None if like[0] is None else read_lead(like[0], index=like[2], level=like[1]),
    )


def _properties(tags: Sequence[Mapping[str, float | str]], scores: Mapping[str, Score]) -> list[dict[str, float | str]]:
    """What the gallery lists of each molecule; the rest of the tags it shows elsewhere."""
    elsewhere = {"number", "model_sha256", "smiles", *(f"{p}_{w}" for p in scores for w in ("stable", "valid"))}
    return [{key: value for key, value in row.items() if key not in elsewhere} for row in tags]


def _churn(asked: float | None, sampler: str, steps: int) -> float:
    """What was asked for, or what measured best: noise put back heals what large steps break, if steps are many."""
    if asked is not None:
        return asked
    return BEST_CHURN if sampler == "heun" and steps >= STEPS_FOR_CHURN else 0.0


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError("a target is a number", where=f"--target {name}", got=text) from None


def _list(text: str | None) -> tuple[int, ...]:
    try:
        return () if text is None else tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError("--grow takes numbers of atoms", expected="such as 3,7", got=text) from None


def _relax(
    molecules: Molecules, orders: Sequence[np.ndarray | None], method: str | None, potential: Potential | None
) -> list[Relaxation]:
    """Relaxed molecules, with a bar."""
    if method is None:
        return []
    known = known_orders(molecules.structures, orders)
    done = 0
    with progress_bar("relaxing") as bar:

        def show(relaxation: Relaxation) -> None:
            nonlocal done
            done += 1
            bar.update(done / len(molecules), f"{done} of {len(molecules)} molecules")

        return relax_molecules(molecules.structures, potential or cast(Method, method), orders=known, on_result=show)


def _print(
    console: Console, figures: Mapping[str, object], scores: Mapping[str, Score], out: Path, html: Path | None
) -> None:
    for name, result in scores.items():
        shares = {
            f"{key.replace('_', ' ')} %": f"{100 * s.value:.1f} ± {100 * s.error:.1f}"
            for key, s in result.shares.items()
        }
        print_figures(console, shares, title=f"{result.molecules} molecules, protocol {name}")
    print_figures(console, {key: value for key, value in figures.items() if key != "scores"}, title="run")
    console.print(f"molecules: {out}", soft_wrap=True)
    if html is not None:
        console.print(f"gallery: {html}", soft_wrap=True)
