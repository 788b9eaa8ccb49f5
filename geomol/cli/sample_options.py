"""The options of `geomol sample`, as types: what each is called, and what its help says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomol.diffusion import SAMPLERS

NumberOption = Annotated[int, typer.Option("-n", "--num", min=1, help="How many molecules or clouds.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Molecules: .sdf (with bonds and tags), .xyz or .extxyz; clouds of points: .npz, .xyz or .ply.",
        show_default="molecules.sdf or clouds.npz",
    ),
]
SizeOption = Annotated[
    str, typer.Option("--n-atoms", help='Atoms per molecule, hydrogens included: "prior", 18, or 15-20.')
]
FormulaOption = Annotated[str | None, typer.Option("--formula", help="Make isomers of this, such as C7H10O2.")]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME=VALUE",
        help="Wanted value of a property that the model was told; sizes are drawn to fit it.",
    ),
]
GuidanceOption = Annotated[float, typer.Option(help="How strongly targets pull; 1 is as trained.")]
ScaffoldOption = Annotated[
    str | None,
    typer.Option("--scaffold", metavar="FILE", help="Keep these atoms where they are and build around them."),
]
GrowOption = Annotated[
    str | None, typer.Option("--grow", metavar="I,J", help="Atoms of the scaffold to take off first, from 0.")
]
LikeOption = Annotated[
    str | None, typer.Option("--like", metavar="FILE", help="Start from this molecule with --noise added.")
]
NoiseOption = Annotated[float, typer.Option("--noise", help="Å, for --like.")]
RecordOption = Annotated[int, typer.Option("--index", help="Which record of --scaffold or --like, from 0.")]
SamplerOption = Annotated[str, typer.Option(help=f"One of {', '.join(SAMPLERS)}.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Noise levels; heun and midpoint call the model twice in each.")]
ChurnOption = Annotated[
    float | None,
    typer.Option(min=0, help="Noise put back on the way, for heun; 20 by default from 40 steps on, else 0."),
]
SeedOption = Annotated[int, typer.Option(help="Of the whole; every molecule has its own that follows from it.")]
RelaxOption = Annotated[
    str | None, typer.Option("--relax", metavar="METHOD", help="mmff, xtb, or a potential (file or name).")
]
GalleryOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a gallery to look at; of clouds, a .png.")
]
TrajectoriesOption = Annotated[
    int, typer.Option("--trajectories", min=0, help="Molecules whose way from noise the gallery shows.")
]
AtOnceOption = Annotated[int, typer.Option("--batch-size", min=1, help="Molecules computed at once.")]
