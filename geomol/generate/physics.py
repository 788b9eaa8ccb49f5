"""Figures of a set of molecules beside the shares of a protocol: strain, geometry, composition, PoseBusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from geomol.errors import ConfigError
from geomol.generate.bonds import edm_bonds
from geomol.generate.composition import compare_composition, composition
from geomol.generate.geometry_stats import compare_geometry
from geomol.generate.internal_coordinates import internal_coordinates
from geomol.generate.molecules import Molecules
from geomol.generate.posebusters import molecules_of, posebusters_checks
from geomol.generate.relaxers import Method, relax_molecules
from geomol.generate.results import known_orders
from geomol.generate.strain import summarise

Figures = Callable[[Molecules, Molecules | None], Mapping[str, float]]


def _strain(method: Method) -> Figures:
    def measure(molecules: Molecules, reference: Molecules | None) -> Mapping[str, float]:
        orders = edm_bonds(molecules.structures)
        return summarise(relax_molecules(molecules.structures, method, orders=orders)).figures()

    return measure


def _geometry(molecules: Molecules, reference: Molecules | None) -> Mapping[str, float]:
    if reference is None:
        raise ConfigError("geometry is compared with data", remedy="give --reference or --train")
    sides = [internal_coordinates(m.structures, edm_bonds(m.structures)) for m in (molecules, reference)]
    return compare_geometry(sides[0], sides[1]).figures()


def _composition(molecules: Molecules, reference: Molecules | None) -> Mapping[str, float]:
    own = composition(molecules.structures, edm_bonds(molecules.structures))
    figures = dict(own.figures())
    if reference is not None:
        other = composition(reference.structures, edm_bonds(reference.structures))
        figures |= {f"{name}_from_data": value for name, value in compare_composition(own, other).figures().items()}
    return figures


def _posebusters(molecules: Molecules, reference: Molecules | None) -> Mapping[str, float]:
    orders = known_orders(molecules.structures, edm_bonds(molecules.structures))
    return posebusters_checks(molecules_of(molecules.structures, orders)).figures()


PHYSICS: dict[str, Figures] = {
    "mmff": _strain("mmff"),
    "xtb": _strain("xtb"),
    "geometry": _geometry,
    "composition": _composition,
    "posebusters": _posebusters,
}
"""Figures by name; each takes the molecules and, where there is one, a reference set, and bonds by EDM's distances.

"mmff" and "xtb": strain, E(as generated) − E(relaxed), failures infinite. "geometry": Wasserstein distances of bond
lengths, angles and torsions from the reference. "composition": elements, sizes and rings. "posebusters": its checks.
"""


def physics_figures(names: list[str], molecules: Molecules, reference: Molecules | None) -> dict[str, float]:
    """The chosen figures together; molecules without atoms (records that could not be read) are left out of them.

    Raises:
        ConfigError: an unknown name, no reference where one is needed, or a package that is missing.
    """
    unknown = [name for name in names if name not in PHYSICS]
    if unknown:
        raise ConfigError(f'unknown figures "{unknown[0]}"', expected=", ".join(PHYSICS))
    kept = molecules.subset(np.flatnonzero(molecules.structures.n_atoms > 0))
    found: dict[str, float] = {}
    for name in names:
        found |= PHYSICS[name](kept, reference)
    return found
