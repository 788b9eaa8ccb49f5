"""The ASE calculator: any potential, or a committee of them, where ASE expects energies, forces and stresses."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from geomol.checkpoint import load_potential
from geomol.compiled import CompiledPotential, PackagedPotential, ReplayedPotential, tabulated
from geomol.compiled.packaged import SUFFIX
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError, GeomolWarning, InputError, ModelDomainError
from geomol.forecast import Forecaster
from geomol.graph import Graph
from geomol.graph.charges import IGNORED, check_charge, check_whole
from geomol.labels import LabelModel
from geomol.md.seen import SeenAtoms
from geomol.md.skin import SkinList, same_bits
from geomol.properties import PropertyModel


class PredictionLike(Protocol):
    """What the calculator reads from a potential (`geomol.potential.Prediction`)."""

    @property
    def energy(self) -> Tensor: ...
    @property
    def node_energy(self) -> Tensor: ...
    @property
    def forces(self) -> Tensor | None: ...
    @property
    def stress(self) -> Tensor | None: ...


class PotentialLike(Protocol):
    """What the calculator needs of a model (`geomol.potential.Potential` has it)."""

    @property
    def cutoff(self) -> float: ...
    @property
    def elements(self) -> Sequence[int]: ...
    def __call__(self, graph: Graph, *, forces: bool = ..., stress: bool = ...) -> PredictionLike: ...


ModelSource = PotentialLike | str | Path


class GeomolCalculator(Calculator):  # type: ignore[misc]
    """Energies (eV), forces (eV/Å) and stress (eV/Å³, Voigt xx yy zz yz xz xy, positive under tension) of a potential.

    Everything is computed at every call, the stress whenever the structure is periodic: results then depend on the
    atoms alone and not on which property was asked for first, to the last bit. With M models the results are the means,
    and `results` also holds the sample standard deviations (M − 1) `energy_std` (eV) and `forces_std` (N, 3) (eV/Å).

    Positions stay in float64 whatever the precision of the model. Constraints act through ASE as with any calculator.
    The models passed in and the atoms are not modified.

    Args:
        model_or_list: a path or the name of a shipped model, a potential, or a sequence of these (a committee).
        device: where to compute; default: where the model is (the CPU for files).
        dtype: precision of the weights; default: as stored.
        skin: extra radius of the stored neighbour list, Å (see `SkinList`).
        allow_nonconservative: accept models whose forces are not the gradient of their energy.
        compile: run each potential as one compiled function (see `CompiledPotential`), on a CUDA device replayed as one
            CUDA graph (see `ReplayedPotential`); the first call takes minutes, and those after it a fraction of the
            time.
        tabulate: read learned kernels from tables that change no force by more than 0.1 meV/Å, or 1e-4 of the rms force
            where that is above 1 eV/Å (see `tabulated`).

    Raises:
        ConfigError: no model, models without a common element, or one that cannot be compiled or tabulated.
        ModelDomainError: an element the model does not know, a charged periodic cell, non-conservative forces.
        InputError: no atoms, positions that are not finite, a number that is no element, or a broken charge.
        PropertyNotImplementedError: stress of a structure without three lattice vectors (ASE's own class).
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        model_or_list: ModelSource | Sequence[ModelSource],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        skin: float = 0.5,
        *,
        allow_nonconservative: bool = False,
        compile: bool = False,
        tabulate: bool = False,
    ) -> None:
        self._seen: SeenAtoms | None = None
        super().__init__(use_cache=False)  # `calculate` keeps the copy of the atoms: one of them is enough
        single = isinstance(model_or_list, str | Path) or not isinstance(model_or_list, Sequence)
        sources: Sequence[Any] = [model_or_list] if single else model_or_list  # type: ignore[assignment]
        if not sources:
            raise ConfigError("a committee needs at least one model", got="an empty list")
        self.models = [_prepare(source, device, dtype) for source in sources]
        if tabulate:
            self.models = [tabulated(model) for model in self.models]
        if compile:
            self.models = [_compiled(model) for model in self.models]
        for model in self.models:
            if not getattr(model, "conservative", True) and not allow_nonconservative:
                raise ModelDomainError(
                    "the forces of this model are not the gradient of its energy: dynamics would not conserve it",
                    remedy="pass allow_nonconservative=True to use it all the same",
                )
        self._device = _device_of(self.models[0]) if device is None else torch.device(device)
        self.elements = sorted(set(self.models[0].elements).intersection(*(m.elements for m in self.models)))
        if not self.elements:
            raise ConfigError(
                "the models of a committee have no element in common",
                got="; ".join(", ".join(chemical_symbols[z] for z in model.elements) for model in self.models),
            )
        cutoff = max(float(model.cutoff) for model in self.models)
        self.neighbours = SkinList(cutoff, skin=skin, device=self._device)
        self._checked_numbers: NDArray[np.int64] | None = None
        self._warned = False

    @classmethod
    def from_package(cls, path: str | Path, skin: float = 0.5) -> GeomolCalculator:
        """A calculator on a package that `geomol export` wrote. The file holds machine code, which is run: load only
        what you trust as you would a program.

        Raises:
            CheckpointError: not a package, damaged, or made for another torch or processor.
        """
        package = PackagedPotential(path)
        return cls(package, device=package.device, skin=skin)

    @property
    def atoms(self) -> Atoms | None:
        """A copy of the atoms of the last call, None before it."""
        return None if self._seen is None else self._seen.atoms

    @atoms.setter
    def atoms(self, atoms: Atoms | None) -> None:
        self._seen = None if atoms is None else SeenAtoms(atoms)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings of all models: the same string, the same potential."""
        digest = hashlib.sha256()
        for model in self.models:
            digest.update(json.dumps(_config_of(model), sort_keys=True, default=str).encode())
            state = model.state_dict() if isinstance(model, torch.nn.Module) else {}
            for name, value in sorted(state.items()):
                digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What changed since the last call, compared bit by bit (see `SeenAtoms.changes`); `tol` is not read."""
        return list(all_changes) if self._seen is None else self._seen.changes(atoms)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results` for these atoms (called by ASE)."""
        atoms = atoms if atoms is not None else self.get_atoms()
        self.check(atoms)
        has_stress = bool(atoms.pbc.any()) and atoms.cell.rank == 3
        if "stress" in properties and not has_stress:
            raise PropertyNotImplementedError("stress needs a periodic structure with three lattice vectors")
        pos, cell = np.asarray(atoms.positions, dtype=np.float64), np.asarray(atoms.cell.array, dtype=np.float64)
        self.neighbours.update(pos, atoms.numbers.astype(np.int64), cell, np.asarray(atoms.pbc, dtype=bool))
        pos_tensor = torch.tensor(pos, dtype=torch.float64, device=self._device)
        graphs = {c: self.neighbours.graph(pos_tensor, c) for c in {float(model.cutoff) for model in self.models}}
        predictions = [model(graphs[float(model.cutoff)], forces=True, stress=has_stress) for model in self.models]
        self.atoms = atoms
        self.results = _results(predictions, has_stress)

    def __getstate__(self) -> dict[str, Any]:
        """The calculator without its list of neighbours, which the copy builds for itself."""
        neighbours = self.neighbours
        fresh = SkinList(neighbours.cutoff, skin=neighbours.skin, device=neighbours.device)
        state = {**self.__dict__, "neighbours": fresh}
        # ASE sets this bound method on the instance
        state.pop("get_spin_polarized", None)
        return state

    def check(self, atoms: Atoms) -> None:
        if len(atoms) == 0:
            raise InputError("the structure has no atoms")
        if not np.isfinite(atoms.positions).all():
            atom, axis = np.argwhere(~np.isfinite(atoms.positions))[0]
            raise InputError(
                "a position is not a finite number",
                where=f"atom {atom}, axis {'xyz'[axis]}",
                got=str(atoms.positions[atom, axis]),
            )
        numbers = atoms.numbers
        if self._checked_numbers is None or not same_bits(numbers, self._checked_numbers):
            _check_elements(numbers, self.elements)
            self._checked_numbers = numbers.copy()
        self._check_charge(atoms)

    def _check_charge(self, atoms: Atoms) -> None:
        charges = atoms.arrays.get("initial_charges")
        charge, spin = atoms.info.get("charge"), atoms.info.get("spin")
        check_whole(charge)
        if charge is None and charges is not None:
            charge = round(float(charges.sum()))
        if np.size(spin) != 1:
            raise InputError("spin is not a number", expected="one number", got=repr(spin)[:60])
        given = check_charge(charge, spin, periodic=bool(atoms.pbc.any()))
        if (given or (charges is not None and bool(charges.any()))) and not self._warned:
            self._warned = True
            warnings.warn(IGNORED, GeomolWarning, stacklevel=2)


def calculator_for(source: Any) -> Any:
    """An ASE calculator as it is; for a potential, or the path or name of one, a calculator on it."""
    is_model = isinstance(source, str | Path | torch.nn.Module)
    return GeomolCalculator(source) if is_model else source


def _prepare(source: ModelSource, device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
    """A model ready to use; a potential that must be cast or moved is copied first."""
    if isinstance(source, str | Path):
        if Path(source).suffix == SUFFIX:
            raise ConfigError(
                "a package is machine code, which is run only when asked for by name",
                got=str(source),
                remedy="if you trust it: GeomolCalculator.from_package(path)",
            )
        return load_potential(source, device=device, dtype=dtype)
    if isinstance(source, Forecaster | PropertyModel | LabelModel | Denoiser):
        raise ConfigError("this model predicts no energies", expected="Potential", got=type(source).__name__)
    if missing := [name for name in ("elements", "cutoff", "__call__") if not hasattr(source, name)]:
        raise ConfigError(
            "not a potential",
            expected="a Potential, a file or name, or a list of these",
            got=f"{type(source).__name__} without {', '.join(missing)}",
        )
    if not isinstance(source, torch.nn.Module):
        return source
    wanted = torch.device(device) if device is not None else _device_of(source)
    tensors = [*source.parameters(), *source.buffers()]
    cast = dtype is not None and any(t.is_floating_point() and t.dtype != dtype for t in tensors)
    if cast or source.training or any(t.device != wanted for t in tensors):
        source = copy.deepcopy(source).to(device=wanted)
        source = source.to(dtype=dtype) if dtype is not None else source
    return source.eval()


def _config_of(model: Any) -> object:
    """Settings of a model; the name of its class where it has none that a file could hold."""
    try:
        return model.config
    except (AttributeError, ConfigError):
        return type(model).__name__


def _device_of(model: Any) -> torch.device:
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def _compiled(potential: Any) -> CompiledPotential | ReplayedPotential:
    return ReplayedPotential(potential) if _on_cuda(potential) else CompiledPotential(potential)


def _on_cuda(model: Any) -> bool:
    return _device_of(model).type == "cuda"


def _check_elements(numbers: NDArray[np.int64], elements: Sequence[int]) -> None:
    unknown = np.flatnonzero(~np.isin(numbers, list(elements)))
    if len(unknown):
        number, last = numbers[unknown[0]], len(chemical_symbols) - 1
        if not 1 <= number <= last:
            got, expected = str(number), f"an atomic number from 1 to {last}"
            raise InputError("a number is no element", where=f"atom {unknown[0]}", expected=expected, got=got)
        raise ModelDomainError(
            "the model does not know this element",
            where=f"atom {unknown[0]}",
            expected=f"one of {', '.join(chemical_symbols[z] for z in elements)}",
            got=chemical_symbols[number],
            remedy="use a model trained on it",
        )


def _results(predictions: Sequence[PredictionLike], has_stress: bool) -> dict[str, Any]:
    energy, energies = _mean([p.energy for p in predictions]), _mean([p.node_energy for p in predictions])
    results: dict[str, Any] = {
        "energy": float(energy[0]),
        "free_energy": float(energy[0]),
        "energies": energies,
        "forces": _mean([p.forces for p in predictions]),
    }
    if has_stress:
        results["stress"] = voigt(_mean([p.stress for p in predictions])[0])
    if len(predictions) > 1:
        results["energy_std"] = float(_stack([p.energy for p in predictions])[:, 0].std(ddof=1))
        results["forces_std"] = _stack([p.forces for p in predictions]).std(axis=0, ddof=1)
    return results


def _mean(values: Sequence[Tensor | None]) -> NDArray[np.float64]:
    stacked = _stack(values)
    mean: NDArray[np.float64] = stacked.mean(axis=0) if len(stacked) > 1 else stacked[0]
    return mean


def _stack(values: Sequence[Tensor | None]) -> NDArray[np.float64]:
    arrays = [v.detach().to("cpu", torch.float64, copy=True).numpy() for v in values if v is not None]
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def voigt(stress: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 6"]:
    """The order of ASE: xx, yy, zz, yz, xz, xy."""
    out: NDArray[np.float64] = full_3x3_to_voigt_6_stress(stress)
    return out
