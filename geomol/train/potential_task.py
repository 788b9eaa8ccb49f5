"""Learning energies and forces."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.compiled import CompiledPotential, Form, ReplayedTraining
from geomol.graph import Graph
from geomol.models import Calibrated
from geomol.potential import Potential
from geomol.symmetry import build_backbone, with_elements
from geomol.train.config import TrainConfig
from geomol.train.losses import Labels, potential_loss
from geomol.train.sections import LossConfig
from geomol.train.setup import LabelledStore, energy_scale, fit_offsets, load_splits
from geomol.train.tasks import Prepared, own_randomness

CALIBRATION_STRUCTURES = 20


class PotentialTask:
    """Energies, forces and stress of a `Potential`; chosen by the force error, or the energy error without forces.

    Args:
        config: weights of the loss.
        compiled: the potential in compiled or replayed form, sharing its weights; None to run it as it is.
    """

    columns: ClassVar[tuple[str, ...]] = (
        "valid_energy_mae_eV",
        "valid_force_mae_eV_per_A",
        "valid_force_rmse_eV_per_A",
        "valid_stress_mae_eV_per_A3",
    )

    def __init__(self, config: LossConfig, compiled: CompiledPotential | ReplayedTraining | None = None) -> None:
        self.config, self.compiled = config, compiled

    def loss(self, model: nn.Module, graph: Graph, labels: Labels) -> Float[Tensor, ""]:
        assert isinstance(model, Potential)
        step = model if self.compiled is None else self.compiled
        predicted = step(graph, forces=self.config.forces > 0, stress=self.config.stress > 0, create_graph=True)
        return potential_loss(predicted, labels, graph, model.scale_value, self.config)

    def errors(self, model: nn.Module, part: LabelledStore) -> dict[str, float]:
        return validation_errors(model, part, with_stress=self.config.stress > 0)

    def score(self, errors: dict[str, float]) -> float:
        return errors.get("valid_force_mae_eV_per_A", errors["valid_energy_mae_eV"])


def prepare_potential(config: TrainConfig) -> Prepared:
    """Loads and divides the data, and builds an untrained potential for them: offsets, scale, seeded weights, and
    kernels calibrated where the backbone knows how.
    """
    whole, parts = load_splits(config.data)
    elements, e0 = fit_offsets(parts["train"])
    with own_randomness(config.run.seed):
        backbone = build_backbone(with_elements(config.model, elements))
    scale = energy_scale(parts["train"], e0, elements)
    potential = Potential(backbone, elements=elements, e0=e0, scale=scale, **config.potential.model_dump())
    potential = potential.to(config.run.device, getattr(torch, config.run.dtype))
    train, valid = (
        LabelledStore.from_structures(parts[part], potential.cutoff, config.run.device) for part in ("train", "valid")
    )
    if isinstance(backbone, Calibrated):
        backbone.eval()  # without dropout: the weights follow from seed and data alone
        backbone.calibrate(train.batch(torch.arange(min(CALIBRATION_STRUCTURES, len(train))))[0])
    compiled = _compiled(potential, train, config) if config.run.compile else None
    return Prepared(potential, PotentialTask(config.loss, compiled), train, valid, parts, whole.content_hash())


def _compiled(potential: Potential, train: LabelledStore, config: TrainConfig) -> CompiledPotential | ReplayedTraining:
    """The step of training in the form that suits the device, refused now or never."""
    some, _ = train.batch(torch.arange(min(config.run.batch_size, len(train))))
    with_stress = config.loss.stress > 0
    if _on_cuda(potential):
        replayed = ReplayedTraining(potential)
        replayed.prepare(some, stress=with_stress)
        return replayed
    compiled = CompiledPotential(potential)
    compiled.prepare(Form.of(some, stress=with_stress, training=True))
    return compiled


def _on_cuda(potential: Potential) -> bool:
    return any(p.is_cuda for p in potential.parameters())


def validation_errors(model: Any, part: LabelledStore, *, with_stress: bool, batch_size: int = 32) -> dict[str, float]:
    """MAE of energy, MAE and RMSE of forces, MAE of stress."""
    device = part.energy.device
    energy, force, stress = [], [], []
    for start in range(0, len(part), batch_size):
        graph, labels = part.batch(torch.arange(start, min(start + batch_size, len(part)), device=device))
        out = model(graph, stress=with_stress)
        energy.append(out.energy - labels.energy)
        if labels.forces is not None:
            force.append(out.forces - labels.forces)
        if with_stress and labels.stress is not None:
            stress.append(out.stress - labels.stress)
    errors = {"valid_energy_mae_eV": float(torch.cat(energy).abs().mean())}
    if force:
        error = torch.cat(force)
        errors["valid_force_mae_eV_per_A"] = float(error.abs().mean())
        errors["valid_force_rmse_eV_per_A"] = float(error.square().mean().sqrt())
    if stress:
        errors["valid_stress_mae_eV_per_A3"] = float(torch.cat(stress).abs().mean())
    return errors
