"""Sampling with a progress bar, as the commands do it for molecules and for clouds."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from geomol.cli.arguments import cpu_threads
from geomol.cli.progress import progress_bar
from geomol.diffusion import Denoiser
from geomol.generate.driver import SampleProgress, run_key, sample
from geomol.generate.request import Request
from geomol.generate.sampling import Sample, SampleSettings


@dataclass(frozen=True, eq=False)
class Sampled:
    """What was made, in which time, and how many of them in this call (an interrupted run goes on)."""

    made: list[Sample]
    seconds: float
    fresh: int

    def seconds_per(self, many: int) -> dict[str, float]:
        """The time for so many, under its name in the figures; nothing where all had been made before."""
        return {f"per_{many}_s": many * self.seconds / self.fresh} if self.fresh else {}


def sample_with_bar(
    denoiser: Denoiser,
    requests: Sequence[Request],
    settings: SampleSettings,
    *,
    folder: Path,
    identity: str,
    what: str,
    trajectories: Collection[int] = (),
    threads: int | None = None,
) -> Sampled:
    """`geomol.generate.sample`, resumable in `folder`, with a bar that says how many of `what` a second.

    Args:
        denoiser, requests, settings, trajectories: as there.
        folder: what is made is kept here until all are.
        identity: hash of the model, which a run must not change.
        what: "molecules" or "clouds".
        threads: of the CPU.
    """
    started, fresh = time.perf_counter(), 0
    with cpu_threads(threads), progress_bar("sampling") as bar:

        def show(progress: SampleProgress) -> None:
            nonlocal fresh
            fresh = progress.made
            rate = progress.made / max(time.perf_counter() - started, 1e-9)
            text = f"{progress.done} of {progress.wanted} {what}  {rate:.3g}/s"
            bar.update(progress.done / progress.wanted, text, eta_s=(progress.wanted - progress.done) / max(rate, 1e-9))

        key = run_key(f"{identity} {denoiser.dtype}", settings, requests)
        made = sample(denoiser, requests, settings, folder=folder, key=key, trajectories=trajectories, on_progress=show)
    return Sampled(made, time.perf_counter() - started, fresh)
