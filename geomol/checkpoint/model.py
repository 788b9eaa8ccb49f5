"""Trained models: weights, constructor arguments and what is known about them, in one file."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import platform
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from geomol.checkpoint.allowance import Allowance
from geomol.checkpoint.header import damaged
from geomol.checkpoint.names import resolve_model
from geomol.checkpoint.tensors import read_header, read_tensors, write_tensors
from geomol.diffusion import Denoiser
from geomol.errors import CheckpointError, ConfigError, GeomolError
from geomol.forecast import Forecaster
from geomol.labels import LabelModel
from geomol.potential import Potential
from geomol.properties import PropertyModel

MODEL_FORMAT = "geomol.model"
Model = Potential | Forecaster | Denoiser | PropertyModel | LabelModel
# a file can make these be built, and nothing else
CLASSES: dict[str, type[Potential] | type[Forecaster] | type[Denoiser] | type[PropertyModel] | type[LabelModel]] = {
    "Potential": Potential,
    "Forecaster": Forecaster,
    "Denoiser": Denoiser,
    "PropertyModel": PropertyModel,
    "LabelModel": LabelModel,
}
UNITS = {
    "Potential": {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å^3"},
    "Forecaster": {"length": "as in the data", "time": "as in the data"},
    "Denoiser": {"length": "Å"},
    "PropertyModel": {"length": "Å", "targets": "as stated with each"},
    "LabelModel": {"length": "as in the data"},
}
LIBRARIES = ("torch", "numpy", "safetensors")

Kind = TypeVar("Kind", Potential, Denoiser, PropertyModel)

_log = logging.getLogger(__name__)


def save_model(
    path: str | os.PathLike[str],
    model: Model,
    *,
    provenance: Mapping[str, object],
    errors: Mapping[str, object],
    symmetry: Mapping[str, object],
) -> None:
    """Write a model, whole or not at all. Equal arguments give byte-identical files: no clock, no path is recorded.

    Args:
        path: a .safetensors file.
        model: its weights are stored in their own precision.
        provenance: data hash, split, training configuration; the versions of the libraries are added.
        errors: measured errors, with units in the names (`force_mae_eV_per_A`).
        symmetry: measured symmetry errors; stored beside the symmetry that the model claims.

    Raises:
        CheckpointError: NaN or infinity in the weights, or a value that JSON lacks.
        OutputError: the disk refused; the file that was there is intact.
    """
    name = next((name for name, cls in CLASSES.items() if type(model) is cls), None)
    if name is None:
        raise CheckpointError(f"a {type(model).__name__} cannot be saved as a model", expected=" or ".join(CLASSES))
    manifest: dict[str, object] = {
        "format": MODEL_FORMAT,
        "class": name,
        "config": model.config,
        "elements": list(model.elements),
        "cutoff": model.cutoff,
        "units": UNITS[name] if len(model.elements) or name != "Denoiser" else UNITS["LabelModel"],
        "dtype": _dtype_name(model.dtype),
        "provenance": {"libraries": _library_versions(), **provenance},
        "errors": errors,
        "symmetry": {"claimed": dataclasses.asdict(model.symmetry), "measured": symmetry},
        "created_by": f"geomol {_version('geomol')}",
    }
    write_tensors(path, model.state_dict(), manifest)


def load_model(
    path_or_name: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> Model:
    """Build the model that a file describes, in evaluation mode.

    Args:
        path_or_name: a file, a folder with `model.safetensors`, or the name of a folder in `models/`.
        device: where to put it; the CPU by default.
        dtype: cast the weights; by default they keep the precision they were stored in.

    Raises:
        ConfigError: unknown name, absent device, or a dtype that is no floating-point type.
        CheckpointError: see `read_tensors`; also a file that is no model, or one whose weights do not fit it.
        SecurityError: a pickle.
    """
    target, cast = find_device(device), None if dtype is None else find_dtype(dtype)
    path = resolve_model(path_or_name)
    tensors, manifest = read_tensors(path)
    model = _build(manifest, tensors, str(path))
    if cast is not None and cast != model.dtype:
        _log.info("%s: weights cast from %s to %s, as asked", path, manifest["dtype"], _dtype_name(cast))
        model = model.to(cast)
    _log.info("%s: %s weights on %s", path, _dtype_name(model.dtype), target)
    return model.to(target).eval()


def load_potential(
    path_or_name: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> Potential:
    """`load_model` of a file that must hold a potential.

    Raises:
        ConfigError: the model predicts something else.
    """
    return _of_kind(Potential, "predicts no energies", path_or_name, device, dtype)


def load_denoiser(
    path_or_name: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> Denoiser:
    """`load_model` of a file that must hold a denoiser.

    Raises:
        ConfigError: the model makes no molecules.
    """
    return _of_kind(Denoiser, "makes no molecules", path_or_name, device, dtype)


def load_property_model(
    path_or_name: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> PropertyModel:
    """`load_model` of a file that must hold a property model.

    Raises:
        ConfigError: the model predicts no properties.
    """
    return _of_kind(PropertyModel, "predicts no properties", path_or_name, device, dtype)


def _of_kind(
    kind: type[Kind],
    otherwise: str,
    path_or_name: str | os.PathLike[str],
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
) -> Kind:
    model = load_model(path_or_name, device=device, dtype=dtype)
    if not isinstance(model, kind):
        raise ConfigError(
            f"this model {otherwise}", where=str(path_or_name), expected=kind.__name__, got=type(model).__name__
        )
    return model


def read_manifest(path_or_name: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says about itself, without its weights being read.

    Raises:
        ConfigError, CheckpointError, SecurityError: as `load_model`.
    """
    return read_header(resolve_model(path_or_name))


def find_device(device: torch.device | str | None) -> torch.device:
    """The device of that name, checked to exist.

    Raises:
        ConfigError: it does not; those that do are listed.
    """
    present = [
        "cpu",
        *(f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)),
    ]
    present += ["mps"] if torch.backends.mps.is_available() else []
    name = str(device or "cpu")
    aliases = {"cpu:0": "cpu", "mps:0": "mps"} | ({"cuda": "cuda"} if "cuda:0" in present else {})
    if name not in present and name not in aliases:
        raise ConfigError("this device is absent", expected=f"one of {', '.join(present)}", got=f'"{name}"')
    return torch.device(aliases.get(name, name))


def find_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The floating-point type of that name ("float32") or itself.

    Raises:
        ConfigError: no such type.
    """
    known = {_dtype_name(kind): kind for kind in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
    name = dtype if isinstance(dtype, str) else _dtype_name(dtype)
    if name not in known:
        raise ConfigError("no precision of weights", expected=f"one of {', '.join(known)}", got=f'"{name}"')
    return known[name]


def _build(manifest: dict[str, Any], tensors: dict[str, Tensor], where: str) -> Model:
    if manifest.get("format") != MODEL_FORMAT or manifest.get("class") not in list(CLASSES):
        got = f"{manifest.get('format')} {manifest.get('class', '')}".strip()[:80]
        raise CheckpointError("not a model", where=where, expected=f"{MODEL_FORMAT} {' or '.join(CLASSES)}", got=got)
    cls, config = CLASSES[manifest["class"]], manifest.get("config")
    if not isinstance(config, dict):
        raise damaged("there is no configuration", where)
    try:
        # initial weights draw random numbers, which are not ours to use up
        with torch.random.fork_rng(devices=[]), Allowance(tensors):
            model = cls.from_config(config)
        model = model.to(find_dtype(manifest["dtype"]))  # for buffers that are not stored
        model.load_state_dict(tensors, assign=True)
    except GeomolError as error:
        raise CheckpointError(f"the model cannot be built ({error})", where=where) from error
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, MemoryError) as error:
        raise damaged(f"the weights do not fit the configuration ({_first_line(error)})", where) from error
    return model


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _library_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from source"
