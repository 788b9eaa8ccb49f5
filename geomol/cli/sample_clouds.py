"""The part of `geomol sample` that makes point clouds: `geomol sample MODEL -n 64 -o clouds.npz`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from geomol.checkpoint import model_hash
from geomol.cli.output import console_for, print_figures, write_json
from geomol.cli.sampling_bar import sample_with_bar
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError
from geomol.generate.cloud_results import check_cloud_output, save_clouds, to_clouds
from geomol.generate.driver import forget
from geomol.generate.request import make_requests, parse_sizes
from geomol.generate.sampling import SampleSettings
from geomol.report.cloud_gallery import save_cloud_figure

MOST_POINTS = 16_384  # computed at once
MOST_SHOWN = 32
DEFAULT_OUT = Path("clouds.npz")


def refuse_for_clouds(model: str, options: Mapping[str, object]) -> None:
    """Options that mean nothing for a model of clouds.

    Raises:
        ConfigError: one of them is given.
    """
    if given := [name for name, value in options.items() if value]:
        raise ConfigError(f"{', '.join(given)}: for molecules, and {model} makes clouds of points")


def sample_clouds(
    denoiser: Denoiser,
    model: str,
    *,
    num: int,
    out: Path,
    size: str,
    seed: int,
    settings: SampleSettings,
    picture: Path | None = None,
    threads: int | None = None,
    json_file: str | None = None,
) -> None:
    """Makes clouds, writes them and a picture of the first; an interrupted run goes on with the same command.

    A model that is told the pose makes them in that of its source.

    Args:
        denoiser: a model without elements. model: where it is from.
        num: how many clouds.
        out: .npz, .xyz or .ply, see `save_clouds`.
        size: points of each: "prior" for as many as in training, or a number.
        seed, settings: as of molecules; fewer are computed at once than `settings.batch_size` where they are large.
        picture: a .png or other figure.

    Raises:
        ConfigError: a model of molecules, or files of other kinds.
    """
    if denoiser.elements:
        raise ConfigError("a model of molecules makes no point clouds", where=model)
    check_cloud_output(out)
    requests = make_requests(num, seed=seed, sizes=parse_sizes(size, denoiser.sizes))
    most = max(request.size for request in requests)
    settings = replace(settings, batch_size=max(1, min(settings.batch_size, MOST_POINTS // most)))
    console, folder, identity = console_for(json_file), out.with_name(f"{out.name}.partial"), model_hash(model)
    sampled = sample_with_bar(
        denoiser, requests, settings, folder=folder, identity=identity, what="clouds", threads=threads
    )
    clouds = to_clouds(
        sampled.made, source=f"{model} ({identity[:12]}), seed {seed}, {settings.sampler}, {settings.steps} steps"
    )
    files = save_clouds(out, clouds)
    if picture is not None:
        save_cloud_figure(picture, {"": np.split(clouds.pos, clouds.ptr[1:-1])[:MOST_SHOWN]})
    forget(folder)
    figures = {
        "clouds": num,
        "points": most,
        "sampling_s": sampled.seconds,
        **sampled.seconds_per(100),
        "evaluations": settings.evaluations,
    }
    print_figures(console, figures, title=f"clouds of {model}")
    console.print(f"clouds: {files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else ""), soft_wrap=True)
    if picture is not None:
        console.print(f"picture: {picture}", soft_wrap=True)
    write_json({**figures, "model": f"{model} ({identity[:12]})", "seed": seed, "sampler": settings.sampler}, json_file)
