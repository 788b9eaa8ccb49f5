"""Which entries of a frame or file are the labels, and a word about those that look like labels but are not used."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from geomol.errors import ConfigError, GeomolWarning, nearest

_NOT_LABELS = ("free_energy", "energies", "node_energy", "stresses", "virials", "kinetic")


@dataclass(frozen=True)
class LabelKeys:
    """Names under which a source keeps its labels; None means the usual name."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None

    def items(self) -> tuple[tuple[str, str | None], ...]:
        """(quantity, key) pairs."""
        return (("energy", self.energy), ("forces", self.forces), ("stress", self.stress))


def announce_other_labels(
    where: str, present: Iterable[str], keys: LabelKeys, used: Iterable[str], *, stacklevel: int = 3
) -> None:
    """Warn where a key looks like a label that is not used, and refuse a chosen key that is nowhere.

    Args:
        present: every key of the source.
        used: the keys that were read as labels.

    Raises:
        ConfigError: a key that the caller chose and that no frame has.
    """
    names, taken = sorted(set(present)), set(used)
    for quantity, key in keys.items():
        if key is not None and key not in names:
            raise ConfigError(f'no {quantity} under the key "{key}"', where=where, remedy=nearest(key, names))
        if key is not None:
            continue
        stem = "force" if quantity == "forces" else quantity
        others = [n for n in names if stem in n.lower() and n not in taken and not _known_other(n)]
        if others:
            shown = ", ".join(others[:5])
            what = (
                f"is used, not {shown}" if any(stem in name.lower() for name in taken) else f"is missing; found {shown}"
            )
            warnings.warn(
                f'{where}: the label "{quantity}" {what}; choose with {quantity}_key="{others[0]}"',
                GeomolWarning,
                stacklevel=stacklevel,
            )


def _known_other(name: str) -> bool:
    lowered = name.lower()
    return any(lowered == other or (other == "kinetic" and other in lowered) for other in _NOT_LABELS)
