"""The sections of the page about what a run was told, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geomol.report import markup
from geomol.report.run import Run
from geomol.train.config import READ_BY


def configuration(run: Run) -> str:
    """Every setting that the task of the run reads."""
    if not run.config:
        return markup.missing("The settings are not known: the run folder has no usable config.json.")
    task = run.config.get("task", "potential")
    read = {key: value for key, value in run.config.items() if READ_BY.get(key, task) == task}
    return markup.card(markup.pairs(markup.flatten(read)))


def provenance(run: Run, versions: Mapping[str, str]) -> str:
    """What the training wrote about itself, and the versions that made this page."""
    parts = []
    if run.summary:
        parts.append(markup.card(markup.pairs(markup.flatten(run.summary)), title="Summary of the run (summary.json)"))
    else:
        parts.append(markup.missing("There is no usable summary.json."))
    origin = _origin(run.manifest)
    if origin:
        parts.append(markup.card(markup.pairs(origin), title="What the model says of itself (model.safetensors)"))
    parts.append(markup.card(markup.pairs(dict(versions)), title="Versions that made this report"))
    return markup.grid(parts)


def _origin(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Training data, split, versions and measured errors of the manifest; the settings have a section of their own."""
    shown = {key: value for key, value in manifest.items() if key in ("provenance", "errors", "symmetry", "dtype")}
    flat = markup.flatten(shown)
    return {key: value for key, value in flat.items() if not key.startswith("provenance.config") and value != "{}"}
