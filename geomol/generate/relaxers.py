"""Relaxation of molecules by MMFF94, GFN2-xTB or a potential of geomol; every molecule comes back, with its reason."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS
from jaxtyping import Float, Int

from geomol.data import Structures
from geomol.data.units import KCAL_PER_MOL
from geomol.errors import ConfigError, InputError
from geomol.generate.relaxation import Limits, Progress, Relaxation, recorded
from geomol.generate.smiles import sanitise, to_rdkit
from geomol.graph import build_graph
from geomol.potential import Potential

if TYPE_CHECKING:
    from rdkit.Chem import Mol

Method = Literal["mmff", "xtb"]
_MMFF_SLICE = 200  # iterations between two looks at the clock
_DEFAULT = Limits()


def relax_molecules(
    structures: Structures,
    method: Method | Potential,
    *,
    orders: Sequence[np.ndarray] | None = None,
    charges: Int[np.ndarray, " A"] | None = None,
    limits: Limits = _DEFAULT,
    on_result: Callable[[Relaxation], None] | None = None,
) -> list[Relaxation]:
    """Relax every molecule of a set, one record each, in order; failures stay, with their reason.

    Args:
        structures: molecules; not modified.
        method: "mmff" (MMFF94 of RDKit; needs `orders`), "xtb" (GFN2-xTB of the package tblite), or a potential.
        orders: (n, n) bond orders of each molecule; for MMFF94 alone.
        charges: formal charge of each atom, default 0; for MMFF94, and their sum for xTB.
        limits: when to stop.
        on_result: called with each record as it is ready, for progress and for saving on the way.

    Raises:
        ConfigError: an unknown method, no bond orders for MMFF94, or a package that is missing.
        InputError: periodic structures, or orders or charges that are too few or too many.
    """
    if structures.pbc.any():
        raise InputError("only molecules are relaxed here, not periodic structures", where=structures.name)
    if orders is not None and len(orders) != len(structures):
        raise InputError("one matrix of orders per molecule", expected=str(len(structures)), got=str(len(orders)))
    charges = np.zeros(len(structures.numbers), dtype=np.int64) if charges is None else charges
    if len(charges) != len(structures.numbers):
        raise InputError("one charge per atom", expected=str(len(structures.numbers)), got=str(len(charges)))
    one = _method(method, orders, limits)
    results = []
    for k in range(len(structures)):
        rows = slice(int(structures.ptr[k]), int(structures.ptr[k + 1]))
        results.append(one(k, structures.numbers[rows], structures.pos[rows], charges[rows]))
        if on_result is not None:
            on_result(results[-1])
    return results


def relax_mmff(mol: Mol, *, limits: Limits = _DEFAULT) -> Relaxation:
    """Relax a molecule by MMFF94, as RDKit has it, interactions between fragments included.

    Args:
        mol: hydrogens explicit, sanitised, with one conformer; not modified.
        limits: `fmax` is not used, RDKit's own criterion is.
    """
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
    pos = np.array(mol.GetConformer().GetPositions(), dtype=np.float64).reshape(-1, 3)
    return recorded("MMFF94", numbers, pos, lambda progress, until: _mmff(mol, limits, progress, until), limits)


def relax_xtb(
    numbers: Int[np.ndarray, " n"], pos: Float[np.ndarray, "n 3"], *, charge: int = 0, limits: Limits = _DEFAULT
) -> Relaxation:
    """Relax a molecule by GFN2-xTB (tblite) with ASE's BFGS; singlet, or doublet for an odd number of electrons.

    Args:
        numbers: atomic numbers.
        pos: positions, Å; not modified.
        charge: total charge, e.
        limits: when to stop.

    Raises:
        ConfigError: tblite is not installed.
    """
    multiplicity = 1 + (int(numbers.sum()) - charge) % 2
    calculator = _tblite()(method="GFN2-xTB", charge=charge, multiplicity=multiplicity, verbosity=0)
    return recorded("GFN2-xTB", numbers, pos, _descent(numbers, pos, calculator, limits), limits)


def relax_potential(
    numbers: Int[np.ndarray, " n"], pos: Float[np.ndarray, "n 3"], potential: Potential, *, limits: Limits = _DEFAULT
) -> Relaxation:
    """Relax a molecule by a potential of geomol with ASE's BFGS.

    Args:
        numbers: atomic numbers.
        pos: positions, Å; not modified.
        potential: not modified; one in training mode is copied.
        limits: when to stop.
    """
    calculator = MoleculeCalculator(copy.deepcopy(potential).eval() if potential.training else potential)
    return recorded("potential", numbers, pos, _descent(numbers, pos, calculator, limits), limits)


class MoleculeCalculator(Calculator):  # type: ignore[misc]
    """A potential where ASE's optimisers expect one; energies (eV) and forces (eV/Å) of molecules, and nothing else."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        tensors = [*potential.parameters(), *potential.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results` (called by ASE)."""
        super().calculate(atoms, properties, system_changes)
        found = self.potential(build_graph(self.atoms, self.potential.cutoff, device=self.device))
        forces = found.forces.to("cpu", torch.float64).numpy()
        self.results = {"energy": float(found.energy[0]), "forces": forces}


def _method(
    method: Method | Potential, orders: Sequence[np.ndarray] | None, limits: Limits
) -> Callable[[int, np.ndarray, np.ndarray, np.ndarray], Relaxation]:
    """What relaxes molecule k, given its numbers, positions and charges."""
    if method == "mmff":
        if orders is None:
            raise ConfigError("MMFF94 needs to know the bonds", remedy="pass the bond orders of each molecule")
        return lambda k, numbers, pos, charges: _build_and_relax(numbers, pos, orders[k], charges, limits)
    if method == "xtb":
        _tblite()
        return lambda _, numbers, pos, charges: relax_xtb(numbers, pos, charge=int(charges.sum()), limits=limits)
    if isinstance(method, Potential):
        return lambda _, numbers, pos, charges: relax_potential(numbers, pos, method, limits=limits)
    raise ConfigError("unknown method of relaxation", expected='"mmff", "xtb" or a Potential', got=repr(method))


def _build_and_relax(
    numbers: np.ndarray, pos: np.ndarray, orders: np.ndarray, charges: np.ndarray, limits: Limits
) -> Relaxation:
    def run(progress: Progress, until: float) -> None:
        from rdkit.rdBase import BlockLogs

        with BlockLogs():
            mol = to_rdkit(numbers, pos, orders, charges=charges)
            objection = sanitise(mol)
            if objection:
                raise InputError(f"no valid molecule: {objection}")
            _mmff(mol, limits, progress, until)

    return recorded("MMFF94", numbers, pos, run, limits)


def _mmff(mol: Mol, limits: Limits, progress: Progress, until: float) -> None:
    from rdkit import Chem
    from rdkit.Chem import rdForceFieldHelpers, rdtrajectory  # noqa: F401 - the latter registers what counts the steps

    moving = Chem.Mol(mol)
    parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(moving)
    if parameters is None:
        raise InputError("MMFF94 has no parameters for an atom of this molecule")
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(moving, parameters, ignoreInterfragInteractions=False)
    field.Initialize()
    progress.energy_before = progress.energy = field.CalcEnergy() * KCAL_PER_MOL
    progress.pos = np.array(moving.GetConformer().GetPositions())
    while not progress.converged and progress.steps < limits.steps and time.monotonic() < until:
        unfinished, snapshots = field.MinimizeTrajectory(1, min(_MMFF_SLICE, limits.steps - progress.steps))
        energy, pos = field.CalcEnergy() * KCAL_PER_MOL, np.array(moving.GetConformer().GetPositions())
        if not (np.isfinite(energy) and np.isfinite(pos).all()):
            raise InputError("energy or positions are not finite")
        progress.pos, progress.energy = pos, energy
        progress.steps, progress.converged = progress.steps + len(snapshots), unfinished == 0


def _descent(
    numbers: np.ndarray, pos: np.ndarray, calculator: Any, limits: Limits
) -> Callable[[Progress, float], None]:
    """What moves the atoms downhill with ASE's BFGS, and keeps the last good positions."""

    def run(progress: Progress, until: float) -> None:
        atoms = ase.Atoms(numbers=numbers, positions=pos, calculator=calculator)
        with BFGS(atoms, logfile=None) as search:
            for converged in search.irun(fmax=limits.fmax, steps=limits.steps):
                energy = float(atoms.get_potential_energy())
                if not (np.isfinite(energy) and np.isfinite(atoms.get_forces()).all()):
                    raise InputError("energy or forces are not finite")
                if progress.pos is None:
                    progress.energy_before = energy
                progress.pos, progress.energy = atoms.positions.copy(), energy
                progress.steps, progress.converged = int(search.nsteps), bool(converged)
                if time.monotonic() > until:
                    return

    return run


def _tblite() -> Any:
    """The ASE calculator of tblite.

    Raises:
        ConfigError: tblite is not installed.
    """
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise ConfigError("GFN2-xTB needs the package tblite", remedy='pip install "geomol[physics]"') from error
    return TBLite
