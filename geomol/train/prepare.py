"""The task that a configuration names, ready to be trained."""

from __future__ import annotations

from geomol.data.cloud_categories import names_clouds
from geomol.train.cloud_generation import prepare_cloud_generation
from geomol.train.config import TrainConfig
from geomol.train.forecast_task import prepare_forecast
from geomol.train.generation_task import prepare_generation
from geomol.train.label_task import prepare_labels
from geomol.train.potential_task import prepare_potential
from geomol.train.property_task import prepare_property
from geomol.train.tasks import Prepared


def prepare(config: TrainConfig) -> Prepared:
    """Data and untrained model of the configured task."""
    if config.task == "generation" and names_clouds(config.data.source):
        return prepare_cloud_generation(config)
    makers = {
        "potential": prepare_potential,
        "forecast": prepare_forecast,
        "generation": prepare_generation,
        "property": prepare_property,
        "labels": prepare_labels,
    }
    return makers[config.task](config)
