"""What a trained model of any task is measured on, and by which figure it is judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from geomol.checkpoint import Model
from geomol.data import Clouds, NBody, Structures, load_nbody
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError
from geomol.forecast import Forecaster
from geomol.generate.sampling import SampleSettings
from geomol.labels import LabelModel
from geomol.potential import Potential
from geomol.properties import PropertyModel
from geomol.report import measure_cost, measure_symmetry
from geomol.study.denoisers import measure_denoiser
from geomol.train import (
    PropertyData,
    TrainConfig,
    evaluate,
    evaluate_forecast,
    evaluate_properties,
    generation_parts,
    label_parts,
    load_splits,
    measure_labels,
    property_parts,
    property_rotation_error,
)

TestPart = NBody | Structures | PropertyData | Clouds


def test_part_of(config: TrainConfig) -> TestPart:
    """What all are measured on, read before anything is trained."""
    if config.task == "forecast":
        return load_nbody(config.data.source).split("test")
    parts: Mapping[str, TestPart]
    if config.task == "property":
        parts = property_parts(config)[0]
    elif config.task == "labels":
        parts = label_parts(config)[0]
    elif config.task == "generation":
        parts = generation_parts(config)
    else:
        parts = load_splits(config.data)[1]
    if "test" not in parts:
        raise ConfigError("no test part to compare on", where=config.data.source, remedy="set data.num_test")
    return parts["test"]


def measure(model: Model, test: TestPart, molecules: int, sampling: SampleSettings) -> dict[str, float]:
    if isinstance(model, Forecaster):
        assert isinstance(test, NBody)
        return evaluate_forecast(model, test)
    if isinstance(model, PropertyModel):
        assert isinstance(test, PropertyData)
        figures, _ = evaluate_properties(model, test.structures, test.values)
        return {**figures, "rotation_error_of_spread": property_rotation_error(model, test.structures)}
    if isinstance(model, LabelModel):
        assert isinstance(test, Clouds)
        return measure_labels(model, test)
    assert isinstance(test, Structures)
    if isinstance(model, Denoiser):
        return measure_denoiser(model, test, num=molecules, settings=sampling)
    assert isinstance(model, Potential)
    return {**evaluate(model, test).metrics, **measure_symmetry(model, test), **measure_cost(model, test)}


def score_key(task: str, measured: Iterable[str]) -> str:
    """The figure that decides: of forecasts the error of positions, of generators the share of stable molecules, of
    properties the error in units of their spread, of labels the share that is right under rotations about z (of parts,
    the mIoU over clouds), of potentials the error of forces, or without reference forces that of energies.

    Args:
        task: as in the configuration.
        measured: names of the figures that there are.
    """
    if task == "labels":
        return "instance_miou_z" if "instance_miou_z" in set(measured) else "accuracy_z"
    if task != "potential":
        return {"forecast": "position_mse", "generation": "molecule_stability", "property": "mae_of_spread"}[task]
    names = set(measured)
    return "force_mae_eV_per_A" if "force_mae_eV_per_A" in names or not names else "energy_per_atom_mae_eV"


def higher_is_better(task: str) -> bool:
    """Whether the deciding figure is one to be raised."""
    return task in ("generation", "labels")
