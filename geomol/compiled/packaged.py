"""Reading an inference package: a potential whose code and weights come from one file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomol.checkpoint.manifest import unseal
from geomol.checkpoint.tensors import PACKAGE_SUFFIX
from geomol.compiled.form import fits
from geomol.compiled.padding import GHOSTS, pad_graph, unpad
from geomol.errors import CheckpointError, GeomolError, ModelDomainError
from geomol.graph import Graph
from geomol.potential import Prediction

SUFFIX = PACKAGE_SUFFIX
PACKAGE_FORMAT = "geomol.package"
METADATA_KEY = "geomol"
_METADATA_FILE = "_metadata.json"
_MOST_METADATA = 1_000_000  # bytes


class PackagedPotential:
    """A potential read from a package: called like `Potential`, for one structure at a time, without training.

    The file holds machine code, which runs when it is loaded: read only packages that you trust as you would a program.

    Args:
        path: a file that `geomol export` wrote.

    Raises:
        CheckpointError: not a package, damaged, or made for another version of torch or another processor.
    """

    conservative = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.manifest = read_package_manifest(path)
        for name, here in (("torch", torch.__version__), ("machine", platform.machine())):
            if self.manifest[name] != here:
                raise CheckpointError(
                    f"this package was compiled for another {name}",
                    where=str(path),
                    expected=here,
                    got=str(self.manifest[name])[:40],
                    remedy="export the model again on this machine",
                )
        self.elements: list[int] = list(self.manifest["elements"])
        self.cutoff = float(self.manifest["cutoff"])
        self.dtype: torch.dtype = getattr(torch, self.manifest["dtype"])
        self.device = torch.device(self.manifest["device"])
        with self.path.open("rb") as file:
            self.config: dict[str, object] = {"package": hashlib.file_digest(file, "sha256").hexdigest()}
        self._fields: list[str] = list(self.manifest["fields"])
        self._run = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
        self._known = torch.zeros(256, dtype=torch.bool, device=self.device)
        self._known[self.elements] = True
        self._checked: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaded code, which a copy loads for itself."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def step(self, graph: Graph) -> list[Tensor]:
        """Energy, node energies, forces and, where the package has it, ∂E/∂strain of one structure."""
        # not through the model's own call, which reads the shape of the flat list anew from JSON each time
        return list(self._run.loader.boxed_run([getattr(graph, name) for name in self._fields]))

    def __call__(self, graph: Graph, *, forces: bool = True, stress: bool = False) -> Prediction:
        """As `Potential.forward`, for graphs of one structure.

        Raises:
            ModelDomainError: elements the model does not know, or more than one structure.
            GeomolError: stress of a structure without a cell.
        """
        self._check(graph)
        energy, node_energy, force, *virial = self.step(graph) if fits(graph) else self._padded_step(graph)
        value = None
        if stress:
            volume = torch.linalg.det(graph.cell).abs()[:, None, None]
            if not virial or bool((volume == 0).any()):
                raise GeomolError("stress of a structure without a cell", remedy="give it three lattice vectors")
            value = virial[0] / volume
        return Prediction(energy, node_energy, force if forces else None, value)

    def _padded_step(self, graph: Graph) -> list[Tensor]:
        """A single atom, or atoms out of reach of each other: sizes 0 and 1 are not among those compiled for."""
        return unpad(self.step(pad_graph(graph, graph.num_edges + GHOSTS)), graph.num_nodes)

    def _check(self, graph: Graph) -> None:
        if graph.num_graphs != 1:
            raise ModelDomainError(
                "a package takes one structure at a time", got=f"{graph.num_graphs}", remedy="use the model itself"
            )
        if graph.numbers is not self._checked:
            if not bool(self._known[graph.numbers].all()):
                raise ModelDomainError("element outside the model", expected=f"atomic numbers {self.elements}")
            self._checked = graph.numbers


def read_package_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a package says about itself; nothing in it is run.

    Raises:
        CheckpointError: not a package of geomol, or a damaged one.
    """
    where = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("checksum")
            texts = [
                archive.read(entry)
                for entry in archive.infolist()
                if entry.filename.endswith(_METADATA_FILE) and entry.file_size <= _MOST_METADATA
            ]
        records = [json.loads(text) for text in texts]
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise CheckpointError("this file is damaged or no package", where=where) from error
    sealed = {str(record[METADATA_KEY]) for record in records if isinstance(record, dict) and METADATA_KEY in record}
    if len(sealed) != 1:  # torch stores it beside the code of the kernels and beside that of the wrapper
        raise CheckpointError("not a package of geomol", where=where, remedy="make one with geomol export")
    manifest = unseal(sealed.pop(), where)
    if manifest.get("format") != PACKAGE_FORMAT:
        raise CheckpointError("not a package of geomol", where=where, got=str(manifest.get("format"))[:40])
    return manifest
