"""The task that a configuration names, ready to be trained."""

from __future__ import annotations

from geomol.train.config import TrainConfig
from geomol.train.forecast_task import prepare_forecast
from geomol.train.potential_task import prepare_potential
from geomol.train.tasks import Prepared


def prepare(config: TrainConfig) -> Prepared:
    """Data and untrained model of the configured task."""
    return prepare_forecast(config) if config.task == "forecast" else prepare_potential(config)
