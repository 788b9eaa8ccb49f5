"""Inference packages: one file with the machine code and the weights of a potential, and no Python of its own."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from geomol.checkpoint.atomic import sync_folder
from geomol.checkpoint.manifest import FORMAT_VERSION, seal
from geomol.compiled.form import Form, sample_graphs
from geomol.compiled.packaged import METADATA_KEY, PACKAGE_FORMAT, SUFFIX, PackagedPotential
from geomol.compiled.quiet import without_deprecations
from geomol.compiled.trace import Traced, trace_step
from geomol.compiled.verify import check_step
from geomol.errors import ConfigError, OutputError
from geomol.graph import Graph
from geomol.nn import device_of
from geomol.potential import Potential

UNITS = {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å^3"}
_AXES = {"pos": (0, "atoms"), "numbers": (0, "atoms"), "batch": (0, "atoms")}
_AXES |= {"edge_index": (1, "pairs"), "cell_shift": (0, "pairs")}


def export_package(
    potential: Potential, path: str | os.PathLike[str], *, provenance: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Compiles energy, forces and stress of one structure ahead of time and writes them as a `.pt2` file.

    Whoever reads the file needs torch of the same version and processor family, and neither the source nor the classes
    of the model: operators of geomol are written out in PyTorch's. Numbers of atoms and pairs are free. Before the file
    takes its name it is loaded, and must give the results of the potential on two structures of different size: to
    1e-10 in float64, to 1e-5 or the potential's own rounding in float32. The generated loops run on one thread, so
    that sums have one order; matrix products use the threads of torch.

    Args:
        potential: its precision and device are those of the package.
        path: ends in .pt2.
        provenance: what else is known of the model, kept in the manifest.

    Returns:
        the manifest.

    Raises:
        ConfigError: a potential that cannot be exported, or whose package computes something else.
        OutputError: the file cannot be written; one that was there is intact.
    """
    target = Path(path)
    if target.suffix != SUFFIX:
        raise ConfigError("a package is a .pt2 file", got=target.name, remedy=f"name it {target.stem}{SUFFIX}")
    form = package_form(potential)
    graphs = sample_graphs(potential, form)
    traced = trace_step(potential, graphs[0], form)
    _refuse_own_operators(traced)
    manifest = _manifest(potential, traced.fields, provenance or {})
    temp = target.with_name(f".{target.stem}.{secrets.token_hex(8)}{SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _compile(traced, graphs[0], temp, seal(manifest, str(target)))
        check_step(potential, PackagedPotential(temp).step, form, graphs)
        os.replace(temp, target)
        sync_folder(target.parent)
    except OSError as error:
        raise OutputError(f"could not be written ({error.strerror or error})", where=str(target)) from error
    finally:
        temp.unlink(missing_ok=True)
    return manifest


def package_form(potential: Potential) -> Form:
    """One structure, with stress: a molecule is a crystal without translations. Complete graphs have no periodic
    form.
    """
    periodic = bool(potential.cutoff < float("inf"))
    return Form(periodic=periodic, single=True, stress=periodic, training=False)


def _compile(traced: Traced, graph: Graph, path: Path, sealed: str) -> None:
    inputs = tuple(traced.arguments(graph))
    dims = {name: torch.export.Dim(name, min=2) for name in ("atoms", "pairs")}
    shapes = tuple(_free(name, dims) for name in traced.fields)
    with torch.no_grad(), without_deprecations():
        program = torch.export.export(traced.module, inputs, dynamic_shapes=shapes)
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": {METADATA_KEY: sealed}, "cpp.threads": 1},
        )


def _free(name: str, dims: Mapping[str, object]) -> dict[int, object] | None:
    if name not in _AXES:
        return None
    axis, dim = _AXES[name]
    return {axis: dims[dim]}


def _refuse_own_operators(traced: Traced) -> None:
    """Raises ConfigError for an operator that only geomol could run."""
    found = {str(node.target) for node in traced.module.graph.nodes if str(node.target).startswith("geomol.")}
    if found:
        raise ConfigError(
            "this potential uses operators that a package cannot hold",
            got=", ".join(sorted(found)),
            remedy="export it on the CPU",
        )


def _manifest(potential: Potential, fields: Sequence[str], provenance: Mapping[str, object]) -> dict[str, object]:
    device = device_of(potential)
    return {
        "format": PACKAGE_FORMAT,
        "format_version": FORMAT_VERSION,
        "fields": list(fields),
        "elements": list(potential.elements),
        "cutoff": potential.cutoff,
        "units": UNITS,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "device": device.type,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "config": potential.config,
        "provenance": dict(provenance),
        "created_by": f"geomol {importlib.metadata.version('geomol')}",
    }
