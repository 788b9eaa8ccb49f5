"""The checks of PoseBusters on generated molecules, where that package is installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geomol.data import Structures
from geomol.errors import ConfigError, InputError
from geomol.generate.smiles import rdkit_version, sanitise, to_rdkit

if TYPE_CHECKING:
    from rdkit.Chem import Mol


@dataclass(frozen=True)
class PoseBustersResult:
    """Shares of molecules that pass the checks of PoseBusters (Buttenschoen et al., Chemical Science 15 (2024) 3130).

    A molecule that could not be built, on which PoseBusters broke, or for which a check gives no answer has not passed:
    all shares are of all molecules. On the cages of QM9, for which RDKit finds no conformers to compare energies with,
    the check "internal_energy" gives none (6 of 40 molecules of QM9 itself), which `unanswered` tells apart.

    Attributes:
        molecules: how many there are.
        passed: whether each passes every check.
        checks: (name, share of all molecules that pass), in the order of PoseBusters; empty if no molecule was checked.
        unanswered: (name, share of all molecules) of those checks that some molecules were not given an answer by.
        failures: (molecule, reason) of those that could not be checked.
        version, rdkit: releases of PoseBusters and RDKit, on which the shares depend.
    """

    molecules: int
    passed: tuple[bool, ...]
    checks: tuple[tuple[str, float], ...]
    unanswered: tuple[tuple[str, float], ...]
    failures: tuple[tuple[int, str], ...]
    version: str
    rdkit: str

    def figures(self) -> dict[str, float]:
        """Numbers by name; shares of all molecules."""
        total = self.molecules or float("nan")
        found = {"posebusters_pass_share": sum(self.passed) / total}
        found |= {f"posebusters_{name}_share": share for name, share in self.checks}
        return found | {f"posebusters_{name}_unanswered_share": share for name, share in self.unanswered}


def posebusters_checks(
    mols: Sequence[Mol | None],
    *,
    config: str = "mol",
    on_result: Callable[[int], None] | None = None,
) -> PoseBustersResult:
    """Run PoseBusters on every molecule.

    Args:
        mols: molecules with explicit hydrogens and one conformer; None for one that could not be built.
        config: set of checks of PoseBusters: "mol_fast" (about 0.03 s for a molecule of QM9), or "mol" with energies
            too (most within a second, but a cage that RDKit cannot embed takes ten or more).
        on_result: called with the number of molecules done.

    Raises:
        ConfigError: PoseBusters is not installed, or an unknown set of checks.
    """
    if config not in ("mol", "mol_fast"):
        raise ConfigError("unknown set of checks", expected='"mol" or "mol_fast"', got=repr(config))
    buster, version = _posebusters(config)
    answers: list[dict[str, bool | None]] = []
    failures = []
    with _quiet():
        for k, mol in enumerate(mols):
            answer, reason = ({}, "the molecule could not be built") if mol is None else _bust(buster, mol)
            answers.append(answer)
            if reason is not None:
                failures.append((k, reason))
            if on_result is not None:
                on_result(k + 1)
    names = list(dict.fromkeys(name for answer in answers for name in answer))
    missing = {name: sum(name in a and a[name] is None for a in answers) / len(answers) for name in names}
    return PoseBustersResult(
        molecules=len(answers),
        passed=tuple(bool(answer) and all(answer.values()) for answer in answers),
        checks=tuple((name, sum(bool(answer.get(name)) for answer in answers) / len(answers)) for name in names),
        unanswered=tuple((name, share) for name, share in missing.items() if share),
        failures=tuple(failures),
        version=version,
        rdkit=rdkit_version(),
    )


def molecules_of(
    structures: Structures, orders: Sequence[np.ndarray], *, charges: np.ndarray | None = None
) -> list[Mol | None]:
    """Sanitised RDKit molecules with positions; None for those that RDKit rejects.

    Args:
        structures: the molecules.
        orders: (n, n) bond orders of each.
        charges: formal charge of each atom; none by default.

    Raises:
        InputError: orders of another number than the molecules.
    """
    from rdkit.rdBase import BlockLogs

    if len(orders) != len(structures):
        raise InputError("one matrix of orders per molecule", expected=str(len(structures)), got=str(len(orders)))
    found: list[Mol | None] = []
    with BlockLogs():
        for k, matrix in enumerate(orders):
            rows = slice(int(structures.ptr[k]), int(structures.ptr[k + 1]))
            numbers, pos = structures.numbers[rows], structures.pos[rows]
            mol = to_rdkit(numbers, pos, matrix, charges=None if charges is None else charges[rows])
            found.append(None if not len(matrix) or sanitise(mol) else mol)
    return found


def _posebusters(config: str) -> tuple[Any, str]:
    """What checks a molecule, and the release of PoseBusters.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from posebusters import PoseBusters  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        remedy = 'pip install "geomol[physics]"'
        raise ConfigError("these checks need the package posebusters", remedy=remedy) from error
    try:
        version = importlib.metadata.version("posebusters")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    buster = PoseBusters(config=config)
    # the set "mol" of release 0.6.5 computes the energies twice, the first time for no check
    modules = buster.config["modules"]
    buster.config["modules"] = [module for module in modules if module.get("chosen_binary_test_output")]
    return buster, version


def _bust(buster: Any, mol: Mol) -> tuple[dict[str, bool | None], str | None]:
    """Answer of every check, None where it has none, and why nothing was checked."""
    from rdkit.rdBase import BlockLogs

    try:
        with BlockLogs():
            table = buster.bust([mol], None, None, full_report=False)
    except Exception as error:  # whatever breaks inside another package is a failed molecule, with its reason
        return {}, " ".join(f"{type(error).__name__}: {error}".split())
    if len(table) != 1:
        return {}, f"PoseBusters returned {len(table)} rows for one molecule"
    row = table.iloc[0]
    return {str(name): _answer(row[name]) for name in table.columns}, None


def _answer(value: Any) -> bool | None:
    """True or False; None for NaN and pandas' missing value, of which bool() is True or an error."""
    return bool(value) if isinstance(value, bool | np.bool_) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the screen what PoseBusters logs; it is in the result."""
    logger = logging.getLogger("posebusters")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
