"""`geomol info MODEL`: what a model is, what it was trained on, and how far it was measured to be wrong."""

from __future__ import annotations

from collections.abc import Mapping

from ase.data import chemical_symbols

from geomol.checkpoint import read_manifest
from geomol.cli.arguments import ModelArgument
from geomol.cli.output import JsonOption, console_for, print_figures, write_json

# Long lists that only programs want; the JSON has them.
_HIDDEN = {"tensors", "sha256"}


def info_command(model: ModelArgument, json_file: JsonOption = None) -> None:
    """Say what a model is: architecture, elements, units, training, measured errors and symmetry."""
    manifest = read_manifest(model)
    shown = {key: value for key, value in manifest.items() if key not in _HIDDEN}
    if isinstance(shown.get("elements"), list):
        shown["elements"] = " ".join(chemical_symbols[number] for number in shown["elements"])
    console = console_for(json_file)
    sections = {key: value for key, value in shown.items() if isinstance(value, Mapping)}
    print_figures(console, {key: value for key, value in shown.items() if key not in sections}, title=model)
    for name, section in sections.items():
        if section:
            console.print()
            print_figures(console, section, title=name)
    write_json(manifest, json_file)
