"""From requests to molecules: one batch at a time, each molecule with random numbers of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.diffusion import EVALUATIONS, SAMPLERS, Churn, Cloud, Denoise, Denoiser, Estimate, gaussian_cloud, pairs_of
from geomol.errors import ConfigError, nearest
from geomol.generate.request import Request, contexts
from geomol.ops import segment_sum

_CERTAIN = 1e3  # logit of an element that is given


@dataclass(frozen=True)
class SampleSettings:
    """How molecules are made.

    Attributes:
        sampler: name in `geomol.diffusion.SAMPLERS`.
        steps: levels of the grid above 0; "heun" and "midpoint" evaluate the model twice per step.
        churn: see `Churn`; for "heun" only.
        guidance: weight of the conditions: x̂ = x̂_free + guidance (x̂_told − x̂_free); 1 tells them plainly.
        batch_size: molecules at once; it changes speed and memory, and results by rounding only.
        frames: at most so many steps of the way are kept where a trajectory is asked for.
    """

    sampler: str = "heun"
    steps: int = 50
    churn: float = 0.0
    guidance: float = 1.0
    batch_size: int = 64
    frames: int = 40

    def check(self) -> None:
        """Raises ConfigError for settings that mean nothing."""
        if self.sampler not in SAMPLERS:
            raise ConfigError(f'unknown sampler "{self.sampler}"', remedy=nearest(self.sampler, SAMPLERS))
        counts = self.steps, self.batch_size, self.frames
        if min(counts) < 1:
            raise ConfigError("steps, batch size and frames must be positive", got=str(counts))
        if not math.isfinite(self.guidance):
            raise ConfigError("guidance must be finite", got=str(self.guidance))
        if not 0 <= self.churn < math.inf or (self.churn > 0 and self.sampler != "heun"):
            raise ConfigError(
                "churn is a positive setting of the sampler heun", got=f"{self.churn} with {self.sampler}"
            )

    @property
    def evaluations(self) -> int:
        """Calls of the model per molecule (two for each with guidance)."""
        return (self.steps * EVALUATIONS.get(self.sampler, 1) - (self.sampler in EVALUATIONS)) * (
            2 if self.guidance != 1 else 1
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """A molecule as it came out.

    Attributes:
        request: what was asked for.
        numbers, pos: elements and positions, Å.
        orders: bond orders of the model's bond head; None without one.
        frames: positions (T, n, 3) and elements (T, n) on the way, where asked for.
    """

    request: Request
    numbers: Int[np.ndarray, " n"]
    pos: Float[np.ndarray, "n 3"]
    orders: Int[np.ndarray, "n n"] | None = None
    frames: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(eq=False)
class _Recorder:
    """Keeps estimates on the way."""

    every: int
    kept: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


@torch.no_grad()
def sample_batch(
    denoiser: Denoiser, requests: Sequence[Request], settings: SampleSettings, *, trajectories: bool = False
) -> list[Sample]:
    """Molecules for requests of any sizes, in their order.

    Raises:
        ConfigError: settings or requests that the model cannot follow.
    """
    settings.check()
    _check_requests(denoiser, requests)
    device = next(denoiser.parameters()).device
    sizes = torch.tensor([r.size for r in requests], device=device)
    ptr = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    generators = [torch.Generator().manual_seed(r.seed) for r in requests]

    def noise() -> Cloud:
        return gaussian_cloud(ptr, denoiser.scaling.num_feats, generators, dtype=denoiser.dtype)

    known = _Known.of(denoiser, requests, ptr)
    grid = denoiser.levels.grid(settings.steps)
    start = noise()
    if requests[0].lead is not None:
        top = requests[0].lead.level / denoiser.length_unit
        grid = torch.cat([torch.tensor([top], dtype=grid.dtype), grid[grid < top]])
    start = start.scaled(float(grid[0]))
    if known.lead is not None:
        start = start.plus(known.lead)
    denoise = _guided(denoiser, requests, settings.guidance, known)
    recorder = _Recorder(max(1, len(grid) // settings.frames))

    def keep(number: int, noisy: Cloud, estimate: Estimate) -> None:
        if trajectories and number % recorder.every == 0:
            pos, numbers = denoiser.decode(estimate)
            recorder.kept.append((pos.double().cpu().numpy(), numbers.cpu().numpy()))

    options = {"churn": Churn(settings.churn)} if settings.sampler == "heun" else {}
    estimate = SAMPLERS[settings.sampler](denoise, start, grid, noise, on_step=keep, **options)
    return _collect(denoiser, requests, estimate, ptr, known, recorder)


def _check_requests(denoiser: Denoiser, requests: Sequence[Request]) -> None:
    if not requests:
        raise ConfigError("no molecules asked for")
    for request in requests:
        _check_sizes(request)
        unknown = [name for name in request.context if name not in denoiser.conditions]
        if unknown:
            told = ", ".join(denoiser.conditions) or "no conditions"
            raise ConfigError(f'the model was not trained on "{unknown[0]}"', expected=told)
    if len({None if r.lead is None else r.lead.level for r in requests}) > 1:
        raise ConfigError("molecules of a batch must start from one level of noise")


def _check_sizes(request: Request) -> None:
    size, given = request.size, {"formula": request.numbers}
    if size < 1:
        raise ConfigError("a molecule needs an atom", got=str(size))
    given |= {"lead": None if request.lead is None else request.lead.numbers}
    for name, numbers in given.items():
        if numbers is not None and len(numbers) != size:
            raise ConfigError(f"the {name} has another number of atoms", expected=str(size), got=str(len(numbers)))
    if request.scaffold is None:
        return
    count = len(request.scaffold.numbers)
    if count > size:
        raise ConfigError("the scaffold has more atoms than the molecule", expected=f"at most {size}", got=str(count))
    if request.numbers is not None and not np.array_equal(request.numbers[:count], request.scaffold.numbers):
        raise ConfigError("the formula must begin with the elements of the scaffold")


@dataclass(frozen=True, eq=False)
class _Known:
    """What of the molecules is given: elements of some nodes, and positions of some, in units of the denoiser."""

    types: Int[Tensor, " N"]  # index of the element, −1 where it is free
    fixed: Tensor  # (N,) bool: nodes of a scaffold
    pos: Float[Tensor, "N 3"]  # theirs
    lead: Cloud | None

    @classmethod
    def of(cls, denoiser: Denoiser, requests: Sequence[Request], ptr: Tensor) -> _Known:
        total = int(ptr[-1])
        types, fixed = np.full(total, -1), np.zeros(total, dtype=bool)
        pos, lead_pos, lead_numbers = np.zeros((total, 3)), np.zeros((total, 3)), np.zeros(total, dtype=np.int64)
        index = {z: k for k, z in enumerate(denoiser.elements)}
        for r, first in zip(requests, ptr.tolist(), strict=False):
            rows = slice(first, first + r.size)
            if r.numbers is not None:
                types[rows] = [_type(index, int(z)) for z in r.numbers]
            if r.scaffold is not None:
                rows = slice(first, first + len(r.scaffold.numbers))
                types[rows] = [_type(index, int(z)) for z in r.scaffold.numbers]
                fixed[rows], pos[rows] = True, r.scaffold.pos
            if r.lead is not None:
                lead_pos[rows], lead_numbers[rows] = r.lead.pos, r.lead.numbers
        device, dtype = ptr.device, denoiser.dtype
        lead = None
        if requests[0].lead is not None:
            lead = denoiser.encode(
                torch.from_numpy(lead_pos).to(device), torch.from_numpy(lead_numbers).to(device), ptr
            )
        return cls(
            torch.from_numpy(types).to(device),
            torch.from_numpy(fixed).to(device),
            torch.from_numpy(pos / denoiser.length_unit).to(device, dtype),
            lead,
        )

    def impose(self, estimate: Estimate, features: Float[Tensor, "K F"]) -> Estimate:
        """The estimate with what is known in its place.

        Scaffolds keep their orientation; they are shifted to where the estimate has them, which leaves the centroid
        of the whole at the origin.
        """
        clean, logits = estimate.clean, estimate.logits
        pos, feats = clean.pos, clean.feats
        if bool(self.fixed.any()):
            shift = _mean_of_fixed(pos - self.pos, self.fixed, clean)
            pos = torch.where(self.fixed[:, None], self.pos + shift[clean.batch], pos)
        given = self.types >= 0
        if bool(given.any()):
            types = self.types.clamp(min=0)
            feats = torch.where(given[:, None], features.to(feats)[types], feats)
            if logits is not None:
                hot = torch.nn.functional.one_hot(types, logits.shape[1]).to(logits.dtype)
                logits = torch.where(given[:, None], hot * _CERTAIN, logits)
        return replace(estimate, clean=clean.replace(pos, feats), logits=logits)


def _mean_of_fixed(values: Float[Tensor, "N 3"], fixed: Tensor, cloud: Cloud) -> Float[Tensor, "G 3"]:
    weight = fixed.to(values.dtype)[:, None]
    total = segment_sum(torch.cat([values * weight, weight], dim=1), cloud.ptr)
    return total[:, :3] / total[:, 3:].clamp(min=1)


def _type(index: dict[int, int], number: int) -> int:
    if number not in index:
        raise ConfigError("the model does not make this element", expected=str(sorted(index)), got=str(number))
    return index[number]


def _guided(denoiser: Denoiser, requests: Sequence[Request], guidance: float, known: _Known) -> Denoise:
    """The denoiser with its conditions, guided by them, and with what is known imposed on every estimate."""
    device = next(denoiser.parameters()).device
    context = None
    if denoiser.conditions:
        context = torch.from_numpy(contexts(requests, list(denoiser.conditions))).to(device, denoiser.dtype)
    told = context is not None and not bool(context.isnan().all())

    def denoise(noisy: Cloud, level: float, earlier: Estimate | None) -> Estimate:
        levels = torch.full((noisy.num_graphs,), level, dtype=noisy.pos.dtype, device=device)
        estimate = denoiser(noisy, levels, earlier=earlier, context=context)
        if told and guidance != 1:
            free = denoiser(noisy, levels, earlier=earlier, context=None)
            estimate = _extrapolate(free, estimate, guidance, denoiser.type_scale)
        return known.impose(estimate, denoiser.features)

    return denoise


def _extrapolate(free: Estimate, told: Estimate, weight: float, type_scale: float) -> Estimate:
    """Positions (and continuous elements) on the line through both; of element probabilities, the logits."""
    clean = free.clean.scaled(1 - weight).plus(told.clean.scaled(weight))
    if free.logits is None or told.logits is None:
        return replace(told, clean=clean)
    logits = (1 - weight) * free.logits + weight * told.logits
    nearer = told if weight >= 0.5 else free  # whose bonds are taken
    return replace(nearer, clean=clean.replace(clean.pos, logits.softmax(1) * type_scale), logits=logits)


def _collect(
    denoiser: Denoiser, requests: Sequence[Request], estimate: Estimate, ptr: Tensor, known: _Known, recorder: _Recorder
) -> list[Sample]:
    pos, numbers = denoiser.decode(estimate)
    all_pos, all_numbers = pos.double().cpu().numpy(), numbers.cpu().numpy()
    orders = None
    if denoiser.bonds is not None and estimate.hidden is not None:
        pairs = pairs_of(ptr)
        orders = denoiser.bond_logits(estimate, pairs).argmax(1).cpu().numpy()
        pairs = pairs.cpu()
    samples = []
    for request, first in zip(requests, ptr.tolist(), strict=False):
        rows = slice(first, first + request.size)
        own_pos, own_numbers = all_pos[rows].copy(), all_numbers[rows].copy()
        if request.scaffold is not None:
            count = len(request.scaffold.numbers)
            own_pos += (request.scaffold.pos - own_pos[:count]).mean(0)
            own_pos[:count], own_numbers[:count] = request.scaffold.pos, request.scaffold.numbers
        matrix = None
        if orders is not None:
            mine = (pairs[0] >= first) & (pairs[0] < first + request.size)
            matrix = np.zeros((request.size, request.size), dtype=np.int8)
            i, j = (pairs[:, mine] - first).numpy()
            matrix[i, j] = matrix[j, i] = orders[mine.numpy()]
        frames = None
        if recorder.kept:
            frames = np.stack([p[rows] for p, _ in recorder.kept]), np.stack([z[rows] for _, z in recorder.kept])
        samples.append(Sample(request, own_numbers, own_pos, matrix, frames))
    return samples
