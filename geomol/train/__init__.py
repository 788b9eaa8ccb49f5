"""Training: typed configuration, exact resume, evaluation."""

from geomol.train.config import TrainConfig, load_config, parse_config
from geomol.train.evaluate import Evaluation, PredictedStructures, evaluate, predict, save_evaluation
from geomol.train.evaluate_generation import evaluate_generation
from geomol.train.forecast_task import evaluate_forecast
from geomol.train.generation_task import generation_parts
from geomol.train.label_ask import clouds_for, embed_clouds, labels_of, warn_of_scale
from geomol.train.label_data import label_parts, load_labelled
from geomol.train.label_use import (
    LabelEvaluation,
    evaluate_labels,
    evaluate_poses,
    measure_labels,
    save_confusion,
)
from geomol.train.loop import train
from geomol.train.property_data import PropertyData, property_parts
from geomol.train.property_use import embed, evaluate_properties, properties_of, property_rotation_error
from geomol.train.run import Progress, TrainResult
from geomol.train.setup import load_splits, recorded_test_rows, split_structures

__all__ = [
    "Evaluation",
    "LabelEvaluation",
    "PredictedStructures",
    "Progress",
    "PropertyData",
    "TrainConfig",
    "TrainResult",
    "clouds_for",
    "embed",
    "embed_clouds",
    "evaluate",
    "evaluate_forecast",
    "evaluate_generation",
    "evaluate_labels",
    "evaluate_poses",
    "evaluate_properties",
    "generation_parts",
    "label_parts",
    "labels_of",
    "load_config",
    "load_labelled",
    "load_splits",
    "measure_labels",
    "parse_config",
    "predict",
    "properties_of",
    "property_parts",
    "property_rotation_error",
    "recorded_test_rows",
    "save_confusion",
    "save_evaluation",
    "split_structures",
    "train",
    "warn_of_scale",
]
