"""Which figures an audit has, with their titles and captions."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from geomol.report import audit_plots
from geomol.report.panels import Panel
from geomol.report.plots import number
from geomol.symmetry.audit import Audit, Orbits, principal_components

_MAX_SAMPLES = 40  # rows of the heat map
_FLAT = 1e-6  # axes reach at least to this share of the output, so that rounding looks as flat as it is


def unit_in_words(unit: str) -> str:
    """eV_per_A as eV/Å."""
    words = unit.replace("_per_", "/").replace("_", "·").split("/")
    shown = {"A": "Å", "A3": "Å³", "e·A": "e·Å"}
    return "/".join(shown.get(word, word) for word in words)


def shown_unit(audit: Audit, output: str, largest: float) -> tuple[str, float]:
    """Unit and factor in which a reader would give an error: meV for small parts of an eV."""
    unit = unit_in_words(audit.kinds[output].unit)
    if unit.startswith("eV") and 0 < largest < 1:
        return f"m{unit}", 1e3
    return unit, 1.0


def quantity(value: float, unit: str) -> str:
    """A figure with its unit, if it has one."""
    return f"{number(value)} {unit}".rstrip()


def with_unit(text: str, unit: str) -> str:
    """A label with its unit in brackets; a pure number has none."""
    return f"{text} ({unit})" if unit else text


def main_output(audit: Audit) -> str:
    """Forces where there are any: what errors are largest in, and what dynamics follows."""
    return "forces" if "forces" in audit.kinds else next(iter(audit.kinds))


def flat_below(audit: Audit, output: str) -> float:
    """What counts as flat, in the unit of the output."""
    return _FLAT * next((error.scale for error in audit.pictures.errors if error.output == output), 0.0)


def error_panels(audit: Audit) -> tuple[Panel, Panel]:
    """The ladder of relative errors, and all of them structure by structure."""
    status = {(row.check, row.output): (row.bar, row.status) for row in audit.rows}
    lines = []
    for error in audit.pictures.errors:
        bar, passed = status[error.family, error.output]
        relative = None if bar is None or error.scale == 0 else bar / error.scale
        lines.append((error.family, error.output, error.relative, relative, passed))
    ladder = Panel(
        "ladder",
        "The ladder of motions",
        "Relative error E′ under every kind of motion, on a logarithmic axis that ends at rounding. Green holds the "
        "claim, red breaks it, grey is not claimed; the tick is the bar, which the largest error is held to.",
        audit_plots.ladder(lines),
    )
    output = main_output(audit)
    chosen = [error for error in audit.pictures.errors if error.output == output]
    tables = [(error.family, _array(error.table)[:_MAX_SAMPLES]) for error in chosen]
    scale = chosen[0].scale or 1.0
    figure = audit_plots.orbit_heatmap(tables, scale=scale, label="relative error")
    caption = (
        f"Error of the {output} of each structure (row) under each motion (column), relative to their mean size. A row "
        "that stands out is a structure the model is unsure about; a block that stands out is a symmetry it lacks."
    )
    return ladder, Panel("heatmap", "Every structure in every pose", caption, figure)


def orbit_panels(audit: Audit) -> list[Panel]:
    """Sphere map, orbits around its worst axis, errors by pose, and the map of samples."""
    pictures, output = audit.pictures, main_output(audit)
    if output not in pictures.sphere:
        return []
    found = [_sphere(audit, output), _circle(audit, output), _poses(audit, output)]
    return [*found, _samples(audit, output)] if len(pictures.orbits[output].table) > 2 else found


def _sphere(audit: Audit, output: str) -> Panel:
    pictures = audit.pictures
    aggregate, floor = _array(pictures.sphere[output].aggregate()), flat_below(audit, output)
    unit, factor = shown_unit(audit, output, float(aggregate.max()))
    figure = audit_plots.sphere_map(
        _array(pictures.axes), aggregate * factor, label=with_unit(f"{output} error", unit), floor=floor * factor
    )
    caption = (
        "Mean error after a quarter turn, at the place on the sphere where the axis of the turn points. A model that "
        "singles out one direction of space is right at that pole; one on a grid of orientations shows the grid. "
        f"Largest {quantity(float(aggregate.max()) * factor, unit)}."
    )
    return Panel("sphere", "Which turns are wrong", caption, figure)


def _circle(audit: Audit, output: str) -> Panel:
    pictures = audit.pictures
    table, floor = _array(pictures.circle[output].table), flat_below(audit, output)
    unit, factor = shown_unit(audit, output, float(table.max()))
    angle = 360.0 * np.arange(table.shape[1]) / table.shape[1]
    figure = audit_plots.orbit_curves(
        angle, table * factor, ylabel=with_unit(f"Error of the {output}", unit), floor=floor * factor
    )
    axis = ", ".join(f"{value:.2f}" for value in _array(pictures.axis))
    caption = f"Each structure turned once about ({axis}), the worst axis of the map; compared with where it started."
    return Panel("circle", "Once around", caption, figure)


def _poses(audit: Audit, output: str) -> Panel:
    orbits = audit.pictures.orbits[output]
    aggregate, table = _array(orbits.aggregate()), _array(orbits.table)
    unit, factor = shown_unit(audit, output, float(aggregate.max()))
    against = "labels" if orbits.reference == "labels" else "the consensus of all poses"
    figure = audit_plots.pose_errors(
        aggregate * factor,
        table * factor,
        ylabel=with_unit(f"Error of the {output} against {_short(orbits)}", unit),
        floor=flat_below(audit, output) * factor,
    )
    caption = (
        f"Root mean square error against {against} in {len(aggregate)} random poses, which act on structures and "
        "labels alike. Flat for an equivariant model: its error does not depend on the pose."
    )
    return Panel("poses", "Does the pose matter?", caption, figure)


def _short(orbits: Orbits) -> str:
    return "labels" if orbits.reference == "labels" else "consensus"


def _samples(audit: Audit, output: str) -> Panel:
    orbits = audit.pictures.orbits[output]
    coordinates, variance = principal_components(orbits.table)
    largest = float(coordinates.abs().max())
    unit, factor = shown_unit(audit, output, largest)
    mean = orbits.table.mean(1)
    mean_unit, mean_factor = shown_unit(audit, output, float(mean.max()))
    figure = audit_plots.pca_scatter(
        _array(coordinates) * factor,
        _array(variance),
        _array(mean) * mean_factor,
        unit=unit,
        label=with_unit("mean error", mean_unit),
        floor=flat_below(audit, output) * factor,
    )
    caption = (
        "Principal components of the orbits (errors in all poses, each orbit's mean taken off); numbers are those of "
        f"the structures. Neighbours fail in the same poses. The farthest is {quantity(largest * factor, unit)} away: "
        "all of them coincide where a model is equivariant."
    )
    return Panel("samples", "Which structures fail alike", caption, figure)


def inside_panels(audit: Audit) -> list[Panel]:
    """Lie derivatives along every generator, and the shares of the layers."""
    rates = {
        name: {key: value for key, value in found.items() if key != "scale"} for name, found in audit.lie_rms.items()
    }
    caption = (
        "Root mean square over structures and components, per Å for the shifts and per radian for the turns. Blind to "
        "reflections, permutations and jumps."
    )
    units = ", ".join(dict.fromkeys(unit_in_words(audit.kinds[name].unit) for name in rates))
    found = [Panel("lie", "Lie derivatives", caption, audit_plots.lie_bars(rates, unit=_rate(units)))]
    for output in dict.fromkeys(share.output for share in audit.shares):
        chosen = {share.generators: share.layers for share in audit.shares if share.output == output}
        total = ", ".join(
            f"{number(share.total, 2)} for the {share.generators}" for share in audit.shares if share.output == output
        )
        unit = unit_in_words(audit.kinds[output].unit)
        figure = audit_plots.layer_bars(chosen, unit=_rate(unit), floor=flat_below(audit, output))
        caption = (
            f"The Lie derivative of the {output} split into what enters at each layer, whose outputs should be "
            f"invariants; the shares sum to the whole, with their signs. {with_unit(f'The whole: {total}', unit)}."
        )
        found.append(Panel(f"layers_{output}", "Where the symmetry is lost", caption, figure))
    return found


def _rate(unit: str) -> str:
    return f"{unit} per Å or rad".lstrip()


def continuity_panels(audit: Audit) -> list[Panel]:
    """The searched paths of the main output."""
    output = main_output(audit)
    found: list[Panel] = []
    for path in dict.fromkeys(scan.path for scan in audit.pictures.scans):
        scans = [scan for scan in audit.pictures.scans if scan.path == path and scan.output == output]
        largest = max(float(scan.curve.max()) for scan in scans)
        unit, factor = shown_unit(audit, output, largest)
        curves = [(_array(scan.curve) * factor, scan.place if scan.jump > 0 else None) for scan in scans]
        turning = path == "a rotation"
        figure = audit_plots.path_curves(
            curves,
            xlabel="Turns" if turning else "Place on the path (equal axes at ½)",
            ylabel=with_unit(f"Change of the {output}", unit),
            floor=flat_below(audit, output) * factor,
        )
        jumps = [scan.jump * factor for scan in scans if scan.jump > 0]
        said = f"Largest jump {quantity(max(jumps), unit)}." if jumps else "No jump."
        how = "Turned back after each step, so that an equivariant model gives a flat line. " if turning else ""
        caption = (
            f"Length of f − f(start), one line per structure. {how}Intervals that stand out were divided down to "
            f"{scans[0].step:.0e} of the path. {said}"
        )
        title = "Along a rotation" if turning else "Through two equal principal axes"
        found.append(Panel(f"path_{len(found)}", title, caption, figure))
    return found


def _array(tensor: object) -> ndarray:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)  # type: ignore[attr-defined]
