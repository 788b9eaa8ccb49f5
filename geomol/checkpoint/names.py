"""From what a user calls a model to the file that holds it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from geomol.errors import CheckpointError, ConfigError, nearest

MODEL_FILE = "model.safetensors"
MODELS_FOLDER = "models"


def resolve_model(path_or_name: str | os.PathLike[str]) -> Path:
    """The file of a model: a file, a folder that holds `model.safetensors`, or the name of a folder in `models/`.

    Names are looked up under the current folder, then in the source checkout that this package belongs to, if any.

    Raises:
        ConfigError: no model of that name; the nearest known one is named.
        CheckpointError: a path that does not exist, or a folder without a model.
    """
    path = Path(path_or_name)
    if os.path.lexists(path) and not path.is_dir():
        return path
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    name = os.fspath(path_or_name)
    if name and not path.is_absolute() and ".." not in path.parts:
        for folder in models_folders():
            if (folder / path / MODEL_FILE).is_file():
                return folder / path / MODEL_FILE
    if path.is_dir() and name:
        raise CheckpointError("a folder without a model", where=name, expected=f"{MODEL_FILE} in it")
    if path.suffix or len(path.parts) != 1:
        raise CheckpointError("no such file", where=name, remedy=_remedy(name))
    raise ConfigError(f'no model named "{name}"', remedy=_remedy(name))


def model_hash(path_or_name: str | os.PathLike[str]) -> str:
    """SHA-256 of the file of a model, to say which one made something.

    Raises:
        ConfigError, CheckpointError: as `resolve_model`.
    """
    with resolve_model(path_or_name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def models_folders() -> list[Path]:
    """Where named models are looked for, first match first."""
    folders = [Path(MODELS_FOLDER)]
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file():  # absent where the package is installed among others
        folders.append(checkout / MODELS_FOLDER)
    return [folder for folder in folders if folder.is_dir()]


def known_models() -> list[str]:
    """Names under which models are found here, sorted."""
    found = {file.parent.relative_to(root).as_posix() for root in models_folders() for file in root.rglob(MODEL_FILE)}
    return sorted(found - {"."})


def _remedy(name: str) -> str:
    known = known_models()
    return nearest(name, known) if known else f"give the path of a {MODEL_FILE}; there are no models in models/ here"
