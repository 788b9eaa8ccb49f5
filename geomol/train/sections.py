"""The sections of a training configuration: data, losses, optimiser, schedule, run, and those of single tasks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from geomol.errors import ConfigError
from geomol.graph import parse_edge_rule


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def known_edges(value: str) -> str:
    """A rule for edges that can be read."""
    try:
        parse_edge_rule(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return value


class DataConfig(Section):
    """Which structures, and how they are divided.

    Attributes:
        source: a file or a dataset name, see `geomol.data.load_structures`; units and keys as there.
        split: "bundled" (train / valid / test stored with the data; without a stored valid part `num_valid` of train
            are held out), "official_1" … "official_5" (rMD17: 950 / 50 / 1000), or "random" (sizes below, drawn with
            `seed`; the rest is the test part), or "holdout" (properties: the official test part of the data, the rest
            drawn at random).
    """

    source: str
    split: str = Field("bundled", pattern=r"^(bundled|random|holdout|official_[1-5])$")
    num_train: int | None = Field(None, gt=0)
    num_valid: int | None = Field(None, gt=0)
    num_test: int | None = Field(None, gt=0)
    seed: int = 0
    units: str | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None


class PotentialConfig(Section):
    """Settings of `geomol.potential.Potential`."""

    zbl: bool = False
    allow_discontinuous: bool = False


class RemulConfig(Section):
    """The softly equivariant term, see `geomol.train.objective`; weight 0 turns it off.

    schedule: "constant", "linear" (from 0 to `weight`), or "gradnorm" (both weights adapt, starting at 1 and `weight`).
    """

    weight: float = Field(0.0, ge=0)
    schedule: Literal["constant", "linear", "gradnorm"] = "constant"
    group: Literal["SO(3)", "O(3)"] = "SO(3)"


class LossConfig(Section):
    """Weights of the terms, all in units of the RMS force component `s` of the training data.

    Attributes:
        kind: "mse": energy · mean (ΔE/s)² + forces · mean (ΔF/s)² + stress · mean (Δσ V/(s N))²; "norm": the same with
            absolute values, |ΔE|, and the length of the force error vector of each atom, which is less ruled by the
            rare large errors.
        per_atom: divide ΔE by the number of atoms (for data of several sizes).
    """

    kind: Literal["mse", "norm"] = "norm"
    energy: float = Field(0.02, ge=0)
    forces: float = Field(1.0, ge=0)
    stress: float = Field(0.0, ge=0)
    per_atom: bool = False

    @model_validator(mode="after")
    def _any(self) -> LossConfig:
        if not self.energy + self.forces + self.stress > 0:
            raise ValueError("nothing is learned: give `energy`, `forces` or `stress` a weight")
        return self


class GenerationWeights(Section):
    """See `geomol.diffusion.LossWeights`."""

    types: float = Field(0.3, ge=0)
    bonds: float = Field(0.1, ge=0)
    bonds_below: float = Field(0.3, gt=0)


class GenerationConfig(Section):
    """Settings of a denoiser, see `geomol.diffusion.Denoiser`, and of how it is trained.

    Attributes:
        process: the noise process, by name and arguments, see `geomol.diffusion.levels`.
        self_conditioning_share: of the steps in which the model sees its own first estimate.
        conditions: columns of the data's table of properties.
        drop_conditions: share of the structures to which the model is not told them (classifier-free guidance).
        coupling: "independent", or "optimal_transport": noise is matched to the structure by permutation and rotation.
        hydrogens: whether they are made too.
        edges: which atoms or points the backbone sees joined, see `Denoiser`.
        num_points: of each cloud, for point clouds: at every step others of those that it has.
        frame: whether the backbone is told the pose of a point cloud; `run.rotate` turns both.
    """

    process: dict[str, Any] = {"name": "karras"}
    prediction: Literal["velocity", "noise", "clean"] = "velocity"
    types: Literal["cross_entropy", "gaussian"] = "cross_entropy"
    type_scale: float = Field(0.25, gt=0)
    charge_scale: float = Field(0.0, ge=0)
    length_unit: float = Field(1.72, gt=0)
    self_conditioning: bool = True
    self_conditioning_share: float = Field(0.5, ge=0, le=1)
    bond_channels: int = Field(0, ge=0)
    conditions: tuple[str, ...] = ()
    drop_conditions: float = Field(0.1, ge=0, lt=1)
    coupling: Literal["independent", "optimal_transport"] = "independent"
    hydrogens: bool = True
    edges: str = "fc"
    num_points: int = Field(512, gt=0)
    frame: bool = False
    weights: GenerationWeights = GenerationWeights()

    _known_edges = field_validator("edges")(known_edges)

    @model_validator(mode="after")
    def _variational(self) -> GenerationConfig:
        """Variational diffusion treats everything as continuous and estimates once."""
        if self.process.get("name") == "variational" and (
            self.types != "gaussian" or self.self_conditioning or self.bond_channels
        ):
            raise ValueError(
                'the process "variational" needs types = "gaussian", self_conditioning = false and bond_channels = 0'
            )
        if self.process.get("name") == "variational" and self.coupling != "independent":
            raise ValueError('the reverse process of "variational" holds for coupling = "independent" alone')
        return self

    def denoiser_settings(self) -> dict[str, Any]:
        """Those that the constructor of `Denoiser` takes as they are."""
        keys = ["prediction", "types", "type_scale", "charge_scale", "length_unit", "self_conditioning"]
        keys += ["bond_channels", "edges"]
        return {key: getattr(self, key) for key in keys}


class PropertyConfig(Section):
    """Properties of whole structures, see `geomol.properties.PropertyModel`.

    Attributes:
        targets: columns of the data's table.
        vector: the one target is a vector.
        pooling: "mean", or "sum" for what grows with the structure.
        references: take out what a sum over elements explains, fitted to the training part.
        loss: of the standardised targets.
    """

    targets: tuple[str, ...] = ()
    vector: bool = False
    pooling: Literal["mean", "sum"] = "mean"
    references: bool = False
    loss: Literal["l1", "mse", "huber"] = "l1"


class LabelConfig(Section):
    """Classes of point clouds or parts of their points, see `geomol.labels.LabelModel`, and how clouds are varied.

    At every step each cloud is a new random subset of its points, moved within their voxels where the source has such;
    then it is scaled (in the pose of the source) and jittered, points are dropped, and what is left is rotated.

    Attributes:
        level: "cloud" (classes) or "point" (parts).
        features: scalars per node that the backbone gives to pooling and readout.
        num_points: of each cloud, or all that it has.
        rotation: in training and validation: "none", "z" (about the third axis) or "SO(3)".
        scale: range of a random factor; `anisotropic`: another one along each axis.
        jitter: standard deviation of noise on every coordinate.
        drop: largest share of the points that is left out.
        smoothing: share of the labels that is spread over all classes (Szegedy et al. 2016).
        balance: how far clouds of rare classes are drawn more often, each with a weight 1 / n_class^balance: 0 shows
            every cloud once in an epoch, 1 all classes equally often.
    """

    level: Literal["cloud", "point"] = "cloud"
    edges: str = "knn-16"
    normals: Literal["none", "vectors", "scalars"] = "none"
    frame: bool = False
    pooling: Literal["mean", "max"] = "mean"
    features: int = Field(64, gt=0)
    num_points: int = Field(1024, gt=0)
    rotation: Literal["none", "z", "SO(3)"] = "z"
    scale: tuple[float, float] = (1.0, 1.0)
    anisotropic: bool = False
    jitter: float = Field(0.0, ge=0)
    drop: float = Field(0.0, ge=0, lt=1)
    smoothing: float = Field(0.1, ge=0, lt=1)
    balance: float = Field(0.0, ge=0, le=1)

    @field_validator("scale")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("a range of factors is positive and ascending")
        return value

    _known_edges = field_validator("edges")(known_edges)


class OptimiserConfig(Section):
    """How weights change.

    `name`: "adam", "adamw" (decoupled `weight_decay`), or "muon" (orthogonalised momentum for matrices, AdamW for all
    else), which gets further in the same time at a rate of its own, 3e-3 to 1e-2. `clip` bounds the norm of the
    gradient (0: no bound). `ema` is the decay per step of the average of the weights that is validated and kept; of
    several, that with the lowest error.
    """

    name: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(0.5, ge=0)
    ema: float | tuple[float, ...] = 0.99

    @field_validator("ema")
    @classmethod
    def _decays(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        tracks = value if isinstance(value, tuple) else (value,)
        if not tracks or not all(0 <= decay < 1 for decay in tracks):
            raise ValueError("a decay per step lies in [0, 1)")
        return value

    @property
    def ema_tracks(self) -> tuple[float, ...]:
        return self.ema if isinstance(self.ema, tuple) else (self.ema,)


class ScheduleConfig(Section):
    """Linear warm-up, then cosine to zero (or no decay) over a number of epochs, or over minutes of training.

    A run over epochs continues bit for bit after an interruption; one over minutes depends on the machine. clock:
    "wall", or "cpu" (CPU time of the process, for busy machines).
    """

    epochs: int | None = Field(None, gt=0)
    minutes: float | None = Field(None, gt=0)
    clock: Literal["wall", "cpu"] = "wall"
    decay: Literal["cosine", "none"] = "cosine"
    warmup_steps: int = Field(200, ge=0)

    @model_validator(mode="after")
    def _one_budget(self) -> ScheduleConfig:
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError("give exactly one of `epochs` and `minutes`")
        return self


class RunConfig(Section):
    """How to run.

    `rotate` shows every structure in a random orientation (of `rotate_group`) at each step. `calibrate` scales the
    untrained weights of a forecaster on a typical batch, as is always done for potentials. `keep` says which averaged
    weights become the model: the "best" on the validation part, or the "last", where that part is too small to choose
    by. `snapshots` keeps a model of every validation, for curves over training. `start` names a trained model (file,
    folder or name) whose weights training begins from. `compile` compiles a potential's whole step, forces and their
    gradients included, or a generator's backbone, after checking the results against the plain ones.
    `stop_after_minutes` ends this call early (the run goes on where it stopped when called again).
    """

    folder: str = "runs"
    seed: int = 0
    batch_size: int = Field(5, gt=0)
    rotate: bool = True
    rotate_group: Literal["SO(3)", "O(3)"] = "SO(3)"
    calibrate: bool = False
    validate_every: int = Field(1, gt=0)
    keep: Literal["best", "last"] = "best"
    snapshots: bool = False
    start: str | None = None
    save_every_minutes: float = Field(1.0, gt=0)
    stop_after_minutes: float | None = Field(None, gt=0)
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    threads: int | None = Field(None, gt=0)
    compile: bool = False
    tensorboard: bool = True
