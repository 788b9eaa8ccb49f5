"""The part of `geomol sample` that makes molecules: sampled, relaxed, scored, written and shown."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console

from geomol.checkpoint import load_potential, model_hash
from geomol.cli.arguments import key_values
from geomol.cli.output import console_for, print_figures, write_json
from geomol.cli.progress import progress_bar
from geomol.cli.sampling_bar import Sampled, sample_with_bar
from geomol.data import Structures
from geomol.diffusion import Denoiser
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

FORCE_FIELDS = ("mmff", "xtb")  # any other method of relaxation is a model


@dataclass(frozen=True)
class Wish:
    """Which molecules, as the options of the command say it.

    Attributes:
        num, seed, n_atoms, formula: as in `geomol sample --help`.
        target: words NAME=VALUE.
        scaffold, open_atoms: a file, and which of its atoms to take off first.
        like, noise: a file, and how much noise is added, Å.
        index: which record of those files.
    """

    num: int
    seed: int
    n_atoms: str
    formula: str | None
    target: list[str]
    scaffold: str | None
    open_atoms: str | None
    like: str | None
    noise: float
    index: int

    def requests(self, denoiser: Denoiser) -> list[Request]:
        """One request for each molecule.

        Raises:
            ConfigError: options that exclude each other, or mean nothing for this model.
        """
        if sum(given is not None for given in (self.formula, self.scaffold, self.like)) > 1:
            raise ConfigError("--formula, --scaffold and --like exclude each other")
        number_is_fixed = self.formula is not None or self.like is not None
        if number_is_fixed and self.n_atoms != "prior":
            raise ConfigError("--n-atoms does not go with --formula or --like, which fix the number")
        context = {name: _number(name, text) for name, text in key_values(self.target).items()}
        scaffold = lead = None
        if self.scaffold is not None:
            scaffold = read_scaffold(self.scaffold, index=self.index, remove=_list(self.open_atoms))
        if self.like is not None:
            lead = read_lead(self.like, index=self.index, level=self.noise)
        return make_requests(
            self.num,
            seed=self.seed,
            sizes={} if number_is_fixed else parse_sizes(self.n_atoms, denoiser.sizes_for(context)),
            numbers=None if self.formula is None else parse_formula(self.formula),
            context=context,
            scaffold=scaffold,
            lead=lead,
        )


@dataclass(frozen=True)
class Gallery:
    """A page to look at, and of how many molecules it shows the way out of the noise."""

    file: Path
    trajectories: int


@dataclass(frozen=True, eq=False)
class Made:
    """The molecules with all that is known of them; `relaxations` is empty where none was asked for."""

    sampled: Sampled
    molecules: Molecules
    scores: dict[str, Score]
    relaxations: list[Relaxation]
    tags: list[dict[str, str | float]]

    @property
    def structures(self) -> Structures:
        """As relaxed, or as they came from the model."""
        return relaxed_structures(self.relaxations) if self.relaxations else self.molecules.structures

    def figures(self, evaluations: int) -> dict[str, object]:
        """Counts, times and scores; a molecule has cost so many evaluations of the model."""
        figures: dict[str, object] = {
            "molecules": len(self.molecules),
            "sampling_s": self.sampled.seconds,
            **self.sampled.seconds_per(1000),
            "evaluations": evaluations,
            "scores": {name: result.figures() for name, result in self.scores.items()},
        }
        if self.relaxations:
            figures["relaxation"] = summarise(self.relaxations).figures()
        return figures


def sample_molecules(
    denoiser: Denoiser,
    model: str,
    wish: Wish,
    settings: SampleSettings,
    *,
    out: Path,
    relax: str | None = None,
    gallery: Gallery | None = None,
    device: str = "cpu",
    threads: int | None = None,
    json_file: str | None = None,
) -> None:
    """Makes molecules, writes and scores them; an interrupted run goes on with the same command.

    Args:
        denoiser: a model of molecules. model: where it is from.
        wish, settings: which molecules, and how they are made.
        out: .sdf, .xyz or .extxyz; relaxed molecules have those they came from beside them, in a file -raw.
        relax: one of `FORCE_FIELDS`, or a potential, which is put on `device`.

    Raises:
        ConfigError: options that do not go together, or files of other kinds.
    """
    check_output(out)
    method = _method(relax, device)
    requests, identity = wish.requests(denoiser), model_hash(model)
    folder = out.with_name(f"{out.name}.partial")
    sampled = sample_with_bar(
        denoiser,
        requests,
        settings,
        folder=folder,
        identity=identity,
        what="molecules",
        trajectories=range(0 if gallery is None else min(gallery.trajectories, wish.num)),
        threads=threads,
    )
    made = _examine(sampled, method, identity, by_head=denoiser.bonds is not None)
    _write(out, made)
    facts = _facts(model, identity, wish.seed, settings)
    if gallery is not None:
        _show(gallery.file, made, title=f"{wish.num} molecules of {model}", facts=facts)
    forget(folder)
    figures = made.figures(settings.evaluations)
    _print(console_for(json_file), figures, made.scores, out, None if gallery is None else gallery.file)
    write_json({**figures, **facts}, json_file)


def _examine(sampled: Sampled, method: Method | Potential | None, identity: str, *, by_head: bool) -> Made:
    """Bonds, scores and, with a method, relaxed copies; bonds of a head are scored by its own protocol too."""
    molecules = to_molecules(sampled.made)
    scores = {name: score(molecules, PROTOCOLS[name]) for name in ("edm", *(("graph",) if by_head else ()))}
    relaxations = _relax(molecules, scores["edm"].verdicts.orders, method)
    tags = tags_of(sampled.made, molecules, scores, relaxations, {"model_sha256": identity[:16]})
    return Made(sampled, molecules, scores, relaxations, tags)


def _write(out: Path, made: Made) -> None:
    orders = made.molecules.orders or []
    if made.relaxations:
        write_molecules(out.with_name(f"{out.stem}-raw{out.suffix}"), made.molecules.structures, orders, made.tags)
    write_molecules(out, made.structures, orders, made.tags)


def _show(file: Path, made: Made, *, title: str, facts: Mapping[str, str]) -> None:
    write_gallery(
        file,
        made.molecules,
        made.scores,
        properties=_properties(made.tags, made.scores),
        relaxed=made.structures if made.relaxations else None,
        trajectories={i: s.frames for i, s in enumerate(made.sampled.made) if s.frames is not None},
        title=title,
        facts=facts,
    )


def _facts(model: str, identity: str, seed: int, settings: SampleSettings) -> dict[str, str]:
    """What one needs to make the same molecules again."""
    evaluations = f"{settings.evaluations} evaluations"
    return {
        "model": f"{model} ({identity[:12]})",
        "command": shlex.join(["geomol", *sys.argv[1:]]),
        "seed": str(seed),
        "sampler": f"{settings.sampler}, {settings.steps} steps, churn {settings.churn:g}, {evaluations}",
        "RDKit": rdkit_version(),
    }


def _properties(tags: Sequence[Mapping[str, float | str]], scores: Mapping[str, Score]) -> list[dict[str, float | str]]:
    """What the gallery lists of each molecule; the rest of the tags it shows elsewhere."""
    elsewhere = {"number", "model_sha256", "smiles", *(f"{p}_{w}" for p in scores for w in ("stable", "valid"))}
    return [{key: value for key, value in row.items() if key not in elsewhere} for row in tags]


def _method(relax: str | None, device: str) -> Method | Potential | None:
    return cast(Method | None, relax) if relax in (None, *FORCE_FIELDS) else load_potential(relax, device=device)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError("a target is a finite number", where=f"--target {name}", got=text)
    return value


def _list(text: str | None) -> tuple[int, ...]:
    try:
        return () if text is None else tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError("--grow takes numbers of atoms", expected="such as 3,7", got=text) from None


def _relax(
    molecules: Molecules, orders: Sequence[np.ndarray | None], method: Method | Potential | None
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

        return relax_molecules(molecules.structures, method, orders=known, on_result=show)


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
