"""Settings of a simulation: typed, closed, with the units in the names."""

# ruff: noqa: N815 — units keep their capitals

from __future__ import annotations

import warnings
from typing import Any, Literal

from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geomol.errors import ConfigError, GeomolWarning, nearest

Ensemble = Literal["nve", "nvt-langevin", "nvt-bussi", "nvt-nose-hoover", "npt"]

HYDROGEN_TIMESTEP_FS = 2.0  # an O-H stretch has a period of 9 fs; five steps per period is the end of stability


class MDConfig(BaseModel):
    """What to simulate and when to stop.

    Attributes:
        ensemble: `nve` (velocity Verlet), `nvt-langevin`, `nvt-bussi` (stochastic velocity rescaling),
            `nvt-nose-hoover` (chain of three), `npt` (isotropic Martyna–Tobias–Klein with Nosé–Hoover chains).
        steps: number of steps.
        timestep_fs: time step, fs.
        temperature_K: target of the thermostat, and temperature of the initial momenta, K.
        pressure_GPa: target of the barostat, GPa (npt).
        friction_per_ps: friction of the Langevin thermostat, 1/ps.
        thermostat_fs: time constant of the Bussi and Nosé–Hoover thermostats, fs.
        barostat_fs: time constant of the barostat, fs.
        interval: steps between frames of the trajectory.
        log_interval: steps between rows of the table; None: as `interval`.
        checkpoint_interval: steps between restart points.
        seed: of the initial momenta and of the thermostat noise.
        momenta: draw them (`maxwell-boltzmann`) or `keep` those of the structure.
        exact_temperature: scale the drawn momenta to exactly `temperature_K`.
        max_temperature_K: stop above this; None: the larger of 10 × the starting or target temperature and 5000 K.
        max_force_eV_per_A: stop where any force is larger than this or than 10 × the largest at the start, eV/Å.
        max_isolation_A: stop when an atom that had a neighbour within this distance has none any more, Å.
        max_energy_drift_eV_per_atom: nve: stop when the total energy has left its start by more, eV per atom.
        max_energy_jump_eV: nve: stop when the total energy changes by more than this × √N in one step, eV.
        name: stem of the output files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ensemble: Ensemble = "nvt-langevin"
    steps: int = Field(10_000, ge=1)
    timestep_fs: float = Field(0.5, gt=0)
    temperature_K: float = Field(300.0, ge=0)
    pressure_GPa: float = 0.0
    friction_per_ps: float = Field(10.0, gt=0)
    thermostat_fs: float = Field(100.0, gt=0)
    barostat_fs: float = Field(1000.0, gt=0)
    interval: int = Field(10, ge=1)
    log_interval: int | None = Field(None, ge=1)
    checkpoint_interval: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)
    momenta: Literal["maxwell-boltzmann", "keep"] = "maxwell-boltzmann"
    exact_temperature: bool = False
    max_temperature_K: float | None = Field(None, gt=0)
    max_force_eV_per_A: float = Field(100.0, gt=0)
    max_isolation_A: float = Field(8.0, gt=0)
    max_energy_drift_eV_per_atom: float = Field(0.05, gt=0)
    max_energy_jump_eV: float = Field(0.2, gt=0)
    name: str = Field("md", pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")

    # pydantic's own signature; overridden only so that the error is ours
    def __init__(self, /, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise _config_error(error) from None

    @property
    def steps_per_row(self) -> int:
        """Steps between rows of the table."""
        return self.interval if self.log_interval is None else self.log_interval


def check_setup(atoms: Atoms, calculator: Any, config: MDConfig) -> None:
    """Refuse what cannot be simulated, and warn where a setting is doubtful.

    Raises:
        ConfigError: an ensemble that does not fit the structure, its constraints or the calculator; momenta to keep
            where there are none.
    """
    if len(atoms) == 0:
        raise ConfigError("there are no atoms to simulate")
    if config.timestep_fs > HYDROGEN_TIMESTEP_FS and 1 in atoms.numbers:
        warnings.warn(
            f"a time step of {config.timestep_fs:g} fs is too long for hydrogen; 0.5 fs is safe, 1 fs common",
            GeomolWarning,
            stacklevel=3,
        )
    if config.momenta == "keep" and not atoms.has("momenta"):
        remedy = "leave out momenta=keep, or start from a frame with momenta"
        raise ConfigError("there are no momenta to keep", got='momenta "keep"', remedy=remedy)
    if config.ensemble != "nve" and config.temperature_K == 0:
        raise ConfigError("a thermostat needs a temperature", expected="temperature_K > 0", got="0")
    if config.ensemble in ("npt", "nvt-nose-hoover") and atoms.constraints:
        raise ConfigError(
            f"{config.ensemble} does not support constraints", remedy="use nve, nvt-langevin or nvt-bussi"
        )
    if config.ensemble == "npt":
        if not atoms.pbc.all() or atoms.cell.rank < 3:
            raise ConfigError(
                "constant pressure needs a structure that is periodic in three directions",
                got=f"pbc {atoms.pbc.tolist()}",
                remedy="use an nvt ensemble",
            )
        if "stress" not in calculator.implemented_properties:
            raise ConfigError("constant pressure needs a calculator with stress", got=type(calculator).__name__)


def _config_error(error: ValidationError) -> ConfigError:
    """All faults of a configuration in one line."""
    faults, remedy = [], None
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            faults.append(f'unknown setting "{name}"')
            remedy = nearest(name, MDConfig.model_fields)
        else:
            faults.append(f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r}")
    return ConfigError("; ".join(faults), where="simulation settings", remedy=remedy)
