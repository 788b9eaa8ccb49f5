"""Learning to make point clouds of one category, with the processes and denoisers of the molecules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.data import Clouds, random_split, rotate
from geomol.data.cloud_categories import check_points, draw_points, load_category
from geomol.diffusion import Clean, Cloud, Denoiser, build_levels, fit_backbone, zero_mean
from geomol.errors import ConfigError
from geomol.graph import parse_edge_rule
from geomol.symmetry import build_backbone
from geomol.train.config import TrainConfig
from geomol.train.generation_task import LOW_LEVEL, VALIDATION_SEED, GenerationTask
from geomol.train.sections import DataConfig, GenerationConfig
from geomol.train.tasks import Prepared, own_randomness, seeded

VALIDATION_BATCH = 16
VALIDATION_REPEATS = 4  # levels at which each cloud of the validation part is met
CALIBRATION_CLOUDS = 16
UNUSED = (
    "types",
    "type_scale",
    "length_unit",
    "bond_channels",
    "conditions",
    "drop_conditions",
    "hydrogens",
    "weights",
)


@dataclass(frozen=True, eq=False)
class CloudShapes:
    """Point clouds that every batch draws other points of, centred, in units of the denoiser.

    Attributes:
        clouds: all of the part.
        settings: how many points, and whether the pose is told.
        length_unit: see `Denoiser`.
        device, dtype: of the batches.
    """

    clouds: Clouds
    settings: GenerationConfig
    length_unit: float
    device: str
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.clouds)

    def batch(self, index: Int[Tensor, " B"], rotation: Float[Tensor, "B 3 3"] | None = None) -> tuple[Clean, None]:
        """Some clouds, their points drawn by the process-wide generator, turned with their frame where rotations are
        given.
        """
        generator = seeded(int(torch.randint(2**62, ())))
        drawn = draw_points(self.clouds, index.cpu().numpy(), self.settings.num_points, generator=generator)
        drawn = drawn if rotation is None else rotate(drawn, rotation.double().cpu())
        pos = (zero_mean(drawn.pos, drawn.ptr) / self.length_unit).to(self.device, self.dtype)
        frame = drawn.frame.to(pos) if self.settings.frame else None
        cloud = Cloud(pos, pos.new_zeros(len(pos), 0), drawn.ptr.to(self.device), frame)
        return Clean(cloud, torch.zeros(len(pos), dtype=torch.int64, device=self.device)), None


class CloudGenerationTask(GenerationTask):
    """Denoising error of positions; the model with the lowest on fixed noise of the validation part is kept."""

    columns: ClassVar[tuple[str, ...]] = ("valid_loss", "valid_positions_low")

    @torch.no_grad()
    def errors(self, model: nn.Module, part: CloudShapes) -> dict[str, float]:  # type: ignore[override]
        total, low, num_low = 0.0, 0.0, 0
        rows = torch.arange(len(part)).repeat(VALIDATION_REPEATS)
        with own_randomness(VALIDATION_SEED, part.device):
            for start in range(0, len(rows), VALIDATION_BATCH):
                clean, _ = part.batch(rows[start : start + VALIDATION_BATCH])
                terms, level = self._terms(model, clean, training=False)
                total += float(terms.positions.sum())
                low += float(terms.positions[level < LOW_LEVEL].sum())
                num_low += int((level < LOW_LEVEL).sum())
        return {"valid_loss": total / len(rows), "valid_positions_low": low / max(1, num_low)}


def prepare_cloud_generation(config: TrainConfig) -> Prepared:
    """Loads the clouds of a category and builds an untrained denoiser of points without elements.

    Its unit of length is the standard deviation of the coordinates of the training part, whatever its pose.

    Raises:
        ConfigError: settings that belong to molecules, parts that the data do not have, or clouds of too few points.
    """
    settings, run = config.generation, config.run
    parts, data_hash = cloud_parts(config)
    unit = float(np.sqrt(np.square(_centred(parts["train"])).mean()))
    with own_randomness(run.seed):
        backbone = fit_backbone(
            config.model,
            num_types=0,
            self_conditioning=settings.self_conditioning,
            frame=settings.frame,
            cutoff=parse_edge_rule(settings.edges).cutoff,
        )
        denoiser = Denoiser(
            build_backbone(backbone),
            elements=(),
            levels=build_levels(settings.process),
            sizes={settings.num_points: len(parts["train"])},
            frame=settings.frame,
            **{**settings.denoiser_settings(), "length_unit": unit},
        )
    denoiser = denoiser.to(run.device, getattr(torch, run.dtype))
    train, valid = (CloudShapes(parts[name], settings, unit, run.device, denoiser.dtype) for name in ("train", "valid"))
    if run.calibrate:
        with own_randomness(run.seed):
            some, _ = train.batch(torch.arange(min(CALIBRATION_CLOUDS, len(train))))
            denoiser.eval().calibrate(some.cloud)
    return Prepared(denoiser, CloudGenerationTask(settings), train, valid, dict(parts), data_hash)


def cloud_parts(config: TrainConfig) -> tuple[dict[str, Clouds], str]:
    """Train, valid and test clouds of a run, and the hash of the whole set.

    The valid part is the stored one, or `data.num_valid` clouds held out of the stored training part by `data.seed`.

    Raises:
        ConfigError: see `prepare_cloud_generation`.
    """
    _check(config)
    data, settings = config.data, config.generation
    whole = load_category(data.source, num_points=settings.num_points)
    check_points(whole, settings.num_points)
    stored = whole.splits
    if "train" not in stored or ("valid" not in stored and data.num_valid is None):
        raise ConfigError(
            f"{data.source} has no stored train and valid parts",
            got=", ".join(sorted(stored)) or "no splits",
            remedy="set data.num_valid to hold out some of the stored training part",
        )
    rows: dict[str, np.ndarray] = {name: stored[name] for name in ("train", "valid", "test") if name in stored}
    if data.num_valid is not None and "valid" not in stored:
        rows["valid"], rows["train"] = _drawn(rows["train"], data.num_valid, data.seed)
    if data.num_train is not None:
        rows["train"], _ = _drawn(rows["train"], data.num_train, data.seed + 1)
    parts = {name: replace(whole.subset(r), name=f"{whole.name}[{name}]") for name, r in rows.items() if len(r)}
    return parts, whole.content_hash()


def _drawn(rows: np.ndarray, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some of the rows by chance, and the others, each ascending."""
    if num >= len(rows):
        raise ConfigError("more clouds asked for than there are", expected=f"below {len(rows)}", got=str(num))
    drawn = random_split(len(rows), {"chosen": num, "others": len(rows) - num}, seed=seed)
    return rows[np.sort(drawn["chosen"])], rows[np.sort(drawn["others"])]


def _check(config: TrainConfig) -> None:
    plain, settings = GenerationConfig(), config.generation
    idle = [f"generation.{key}" for key in UNUSED if getattr(settings, key) != getattr(plain, key)]
    if settings.process.get("name") == "variational":  # whose elements are continuous: there are none
        idle = [key for key in idle if key != "generation.types"]
    known = DataConfig(source=config.data.source)
    for key in ("split", "num_test", "units", "energy_key", "forces_key", "stress_key"):
        idle += [f"data.{key}"] if getattr(config.data, key) != getattr(known, key) else []
    idle += ["run.compile"] if config.run.compile else []
    if idle:
        raise ConfigError(f"{', '.join(idle)}: of no use for point clouds, leave it out", where=config.data.source)


def _centred(clouds: Clouds) -> Float[np.ndarray, "A 3"]:
    pos = clouds.pos.astype(np.float64)
    mean = np.add.reduceat(pos, clouds.ptr[:-1], axis=0) / clouds.sizes[:, None]
    return np.asarray(pos - np.repeat(mean, clouds.sizes, axis=0))
