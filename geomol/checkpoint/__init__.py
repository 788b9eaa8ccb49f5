"""Models and training states on disk: safetensors with a JSON manifest, hashed, replaced whole, without pickle."""

from geomol.checkpoint.model import (
    Model,
    load_denoiser,
    load_model,
    load_potential,
    load_property_model,
    read_manifest,
    save_model,
)
from geomol.checkpoint.names import known_models, model_hash
from geomol.checkpoint.state import load_state, save_state
from geomol.checkpoint.tensors import read_tensors, write_tensors

__all__ = [
    "Model",
    "known_models",
    "load_denoiser",
    "load_model",
    "load_potential",
    "load_property_model",
    "load_state",
    "model_hash",
    "read_manifest",
    "read_tensors",
    "save_model",
    "save_state",
    "write_tensors",
]
