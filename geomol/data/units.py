"""Units of labels: every reader converts once, to eV and Å, and says what it converted from.

Constants: CODATA 2018. The calorie is the thermochemical one (4.184 J).
"""

from __future__ import annotations

from dataclasses import dataclass

from geomol.errors import ConfigError, nearest

FARADAY = 96485.33212331  # C/mol = J/mol per eV; exact since 2019 (N_A times e)
HARTREE = 27.211386245988  # eV
BOHR = 0.529177210903  # Å
KCAL_PER_MOL = 4184.0 / FARADAY  # eV
KJ_PER_MOL = 1000.0 / FARADAY  # eV

ENERGY_UNITS: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "Hartree": HARTREE,
    "Ry": HARTREE / 2,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
}
LENGTH_UNITS: dict[str, float] = {"Angstrom": 1.0, "Bohr": BOHR, "nm": 10.0}

_SYNONYMS = {
    "ev": "eV",
    "mev": "meV",
    "hartree": "Hartree",
    "ha": "Hartree",
    "au": "Hartree",
    "ry": "Ry",
    "rydberg": "Ry",
    "kcal/mol": "kcal/mol",
    "kj/mol": "kJ/mol",
    "angstrom": "Angstrom",
    "ang": "Angstrom",
    "a": "Angstrom",
    "å": "Angstrom",
    "bohr": "Bohr",
    "nm": "nm",
}


@dataclass(frozen=True)
class Units:
    """Energy and length unit of a source; forces are energy/length, stress energy/length³."""

    energy: str = "eV"
    length: str = "Angstrom"

    def __post_init__(self) -> None:
        for kind, value, known in (("energy", self.energy, ENERGY_UNITS), ("length", self.length, LENGTH_UNITS)):
            if value not in known:
                raise ConfigError(f'unknown {kind} unit "{value}"', remedy=nearest(value, known))

    @property
    def energy_in_ev(self) -> float:
        """Factor that turns an energy into eV."""
        return ENERGY_UNITS[self.energy]

    @property
    def length_in_angstrom(self) -> float:
        """Factor that turns a length into Å."""
        return LENGTH_UNITS[self.length]

    @property
    def force_in_ev_per_angstrom(self) -> float:
        """Factor that turns a force into eV/Å."""
        return self.energy_in_ev / self.length_in_angstrom

    @property
    def stress_in_ev_per_angstrom3(self) -> float:
        """Factor that turns a stress into eV/Å³."""
        return self.energy_in_ev / self.length_in_angstrom**3

    def __str__(self) -> str:
        return f"{self.energy},{self.length}"


EV_ANGSTROM = Units()


def parse_units(text: str | Units) -> Units:
    """Units from `"energy"` or `"energy,length"`: `"kcal/mol"`, `"Hartree,Bohr"`, `"eV,Angstrom"`.

    The length is Å unless stated. Case and the usual short forms (`Ha`, `Ry`, `A`) are accepted.

    Raises:
        ConfigError: an unknown unit, or more than two parts.
    """
    if isinstance(text, Units):
        return text
    parts = [part.strip() for part in text.split(",")]
    if not 1 <= len(parts) <= 2:
        raise ConfigError("units are two names", expected='"energy" or "energy,length"', got=f'"{text}"')
    names = [_SYNONYMS.get(part.lower(), part) for part in parts]
    return Units(*names)
