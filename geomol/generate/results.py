"""What a sampling run leaves behind: molecules with bonds, their scores, relaxed copies, and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from geomol.data import Structures, write_extxyz
from geomol.errors import ConfigError
from geomol.generate.bonds import edm_bonds
from geomol.generate.molecules import Molecules, structures_of
from geomol.generate.relaxation import Relaxation
from geomol.generate.sampling import Sample
from geomol.generate.score import Score
from geomol.generate.sdf import write_sdf
from geomol.generate.smiles import without_hydrogens

KINDS = (".sdf", ".xyz", ".extxyz")


def to_molecules(samples: Sequence[Sample]) -> Molecules:
    """Generated molecules with the bonds of the bond head, or, without one, those that their distances imply."""
    structures = structures_of([s.numbers for s in samples], [s.pos for s in samples], name="generated", source="Å")
    if any(s.orders is None for s in samples):
        return Molecules(structures, orders=list(edm_bonds(structures)))
    return Molecules(structures, orders=[s.orders for s in samples])


def known_orders(structures: Structures, orders: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Bond orders of every molecule, none at all where they are not known."""
    return [
        np.zeros((n, n), np.int8) if found is None else found
        for n, found in zip(structures.n_atoms.tolist(), orders, strict=True)
    ]


def agreement(molecules: Molecules) -> np.ndarray:
    """Whether the bonds that a molecule came with are those that its distances imply: a filter that costs nothing."""
    assert molecules.orders is not None
    implied = edm_bonds(molecules.structures)
    return np.array([a is not None and np.array_equal(a, b) for a, b in zip(molecules.orders, implied, strict=True)])


def relaxed_structures(relaxations: Sequence[Relaxation], name: str = "relaxed") -> Structures:
    """The molecules after relaxation; as they were where it failed."""
    return structures_of(
        [r.numbers for r in relaxations],
        [r.before if r.after is None else r.after for r in relaxations],
        name=name,
        source="Å",
    )


def check_output(path: Path) -> None:
    """Raises ConfigError for a file of a kind that molecules are not written to."""
    if path.suffix.lower() not in KINDS:
        raise ConfigError("molecules are not written to such files", where=str(path), expected=", ".join(KINDS))


def write_molecules(
    path: Path, structures: Structures, orders: Sequence[np.ndarray | None], tags: Sequence[Mapping[str, object]]
) -> None:
    """An SDF file with bonds and tags, or extended XYZ without bonds.

    Raises:
        OutputError: the file cannot be written.
    """
    check_output(path)
    if path.suffix.lower() == ".sdf":
        write_sdf(path, structures, orders, tags)
        return
    write_extxyz(path, structures)


def tags_of(
    samples: Sequence[Sample],
    molecules: Molecules,
    scores: Mapping[str, Score],
    relaxations: Sequence[Relaxation],
    common: Mapping[str, str | float],
) -> list[dict[str, str | float]]:
    """What is known of each molecule, for the tags of an SDF file and the columns of a gallery."""
    agrees = agreement(molecules) if all(s.orders is not None for s in samples) else None
    rows = []
    for i, sample in enumerate(samples):
        row: dict[str, str | float] = {"number": float(i), "seed": str(sample.request.seed), **common}
        for name, result in scores.items():
            row |= {
                f"{name}_stable": float(result.verdicts.stable[i]),
                f"{name}_valid": float(result.verdicts.valid[i]),
            }
        if smiles := scores["edm"].verdicts.smiles[i]:
            row["smiles"] = without_hydrogens(smiles)
        row |= {f"asked_{name}": float(value) for name, value in sample.request.context.items()}
        if agrees is not None:
            row["bonds_agree"] = float(agrees[i])
        if relaxations:
            row |= {
                "strain_kcal_per_mol": relaxations[i].strain_kcal_per_mol,
                "relaxation_rmsd_A": relaxations[i].rmsd,
            }
        rows.append({key: value for key, value in row.items() if not isinstance(value, float) or np.isfinite(value)})
    return rows
