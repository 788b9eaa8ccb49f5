"""`geomol sample MODEL -n 100 -o mols.sdf`: molecules, or clouds of points, out of noise."""

from __future__ import annotations

from pathlib import Path

from geomol.checkpoint import load_denoiser
from geomol.cli.arguments import DeviceOption, DtypeOption, ModelArgument, ThreadsOption
from geomol.cli.output import JsonOption
from geomol.cli.sample_clouds import DEFAULT_OUT, refuse_for_clouds, sample_clouds
from geomol.cli.sample_molecules import Gallery, Wish, sample_molecules
from geomol.cli.sample_options import (
    AtOnceOption,
    ChurnOption,
    FormulaOption,
    GalleryOption,
    GrowOption,
    GuidanceOption,
    LikeOption,
    NoiseOption,
    NumberOption,
    OutOption,
    RecordOption,
    RelaxOption,
    SamplerOption,
    ScaffoldOption,
    SeedOption,
    SizeOption,
    StepsOption,
    TargetOption,
    TrajectoriesOption,
)
from geomol.errors import ConfigError
from geomol.generate.sampling import SampleSettings

BEST_CHURN, STEPS_FOR_CHURN = 20.0, 40


def sample_command(
    model: ModelArgument,
    num: NumberOption = 100,
    out: OutOption = None,
    n_atoms: SizeOption = "prior",
    formula: FormulaOption = None,
    target: TargetOption = None,
    guidance: GuidanceOption = 1.0,
    scaffold: ScaffoldOption = None,
    open_atoms: GrowOption = None,
    like: LikeOption = None,
    noise: NoiseOption = 0.6,
    index: RecordOption = 0,
    sampler: SamplerOption = "heun",
    steps: StepsOption = 50,
    churn: ChurnOption = None,
    seed: SeedOption = 0,
    relax: RelaxOption = None,
    html: GalleryOption = None,
    trajectories: TrajectoriesOption = 4,
    batch_size: AtOnceOption = 64,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Make molecules. An interrupted run goes on with the same command; molecules depend on their seeds alone."""
    if churn is None:
        churn = best_churn(sampler, steps)
    settings = SampleSettings(sampler=sampler, steps=steps, churn=churn, guidance=guidance, batch_size=batch_size)
    settings.check()
    if guidance != 1 and not target:
        raise ConfigError("--guidance weighs targets, and none is given", remedy="give --target NAME=VALUE")
    denoiser = load_denoiser(model, device=device, dtype=dtype)
    if denoiser.elements:
        wish = Wish(num, seed, n_atoms, formula, target or [], scaffold, open_atoms, like, noise, index)
        sample_molecules(
            denoiser,
            model,
            wish,
            settings,
            out=out or Path("molecules.sdf"),
            relax=relax,
            gallery=None if html is None else Gallery(html, trajectories),
            device=device,
            threads=threads,
            json_file=json_file,
        )
        return
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


def best_churn(sampler: str, steps: int) -> float:
    """What measured best: noise put back heals what large steps break, if steps are many."""
    return BEST_CHURN if sampler == "heun" and steps >= STEPS_FOR_CHURN else 0.0
