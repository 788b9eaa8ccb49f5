"""The calculator of commands that move atoms: of a model, or of a package that `geomol export` wrote."""

from __future__ import annotations

from pathlib import Path

import torch

from geomol.checkpoint import load_potential
from geomol.compiled.packaged import SUFFIX
from geomol.errors import ConfigError
from geomol.md import GeomolCalculator


def calculator_of(
    model: str, *, device: str, dtype: str | None, compile: bool = False, tabulate: bool = False
) -> GeomolCalculator:
    """A calculator on MODEL; a package has its device and precision in it and is compiled already.

    Raises:
        ConfigError: another device or precision, `compile` or `tabulate`, for a package; see also `load_potential`.
    """
    if Path(model).suffix != SUFFIX:
        potential = load_potential(model, device=device, dtype=dtype)
        return GeomolCalculator(potential, compile=compile, tabulate=tabulate)
    if compile:
        raise ConfigError("a package is compiled already", where=model, remedy="leave out --compile")
    if tabulate:
        raise ConfigError("a package is as it was made", where=model, remedy="geomol export --tabulate")
    calculator = GeomolCalculator.from_package(model)
    (package,) = calculator.models
    wanted = {"device": torch.device(device).type, "dtype": dtype}
    made = {"device": package.device.type, "dtype": str(package.dtype).removeprefix("torch.")}
    for name, value in wanted.items():
        if value not in (None, made[name]):
            raise ConfigError(
                f"this package was made for another {name}",
                where=model,
                expected=made[name],
                got=str(value),
                remedy=f"pass --{name} {made[name]}, or export the model again",
            )
    return calculator
