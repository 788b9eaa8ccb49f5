"""The page of a symmetry audit: one HTML file that holds everything it shows and asks nothing of the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from geomol.report import markup
from geomol.report.audit_panels import (
    continuity_panels,
    error_panels,
    inside_panels,
    orbit_panels,
    unit_in_words,
)
from geomol.report.page import content_policy, figure_drawer, read_resource, write_page
from geomol.report.panels import Panel
from geomol.report.plots import number
from geomol.symmetry.audit import Audit, Row

Draw = Callable[[Panel], str]


def write_audit(audit: Audit, path: str | os.PathLike[str], *, model: str, data: str) -> Path:
    """Write the page of an audit and return its path.

    Args:
        audit: what was found.
        path: the HTML file.
        model, data: names, for the title.

    Raises:
        OutputError: the file could not be written.
    """
    target = Path(path)
    write_page(target, render_audit(audit, model=model, data=data))
    return target


def render_audit(audit: Audit, *, model: str, data: str) -> str:
    """The whole page as text; equal audits give equal pages."""
    draw = figure_drawer()
    parts = [
        ("motions", "Finite motions", _errors(audit, draw)),
        ("orbits", "Orbits", _cards(orbit_panels(audit), draw)),
        ("inside", "Infinitesimal motions", _inside(audit, draw)),
        ("continuity", "Continuity", _continuity(audit, draw)),
        ("checks", "All checks", f'<div class="card">{_checks(audit.rows)}</div>'),
        ("words", "What the words mean", _words(audit)),
    ]
    nav = "".join(f'<a href="#{name}">{markup.escape(title)}</a>' for name, title, _ in parts)
    body = "".join(markup.section(name, title, content) for name, title, content in parts)
    title = markup.escape(model)
    settings = audit.settings
    judged = [row for row in audit.rows if row.status in ("pass", "fail")]
    passed = sum(row.status == "pass" for row in judged)
    lead = (
        f"{settings['num_structures']} structures of {data}; {settings['num_elements']} random motions of each kind, "
        f"seed {settings['seed']}; {settings['precision']}. {passed} of {len(judged)} checks passed."
    )
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{content_policy([])}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{title} · symmetry audit</title>\n",
            f"<style>\n{read_resource('assets', 'report.css')}{read_resource('assets', 'audit.css')}</style>\n",
            f'</head>\n<body>\n<header><p class="eyebrow">geomol symmetry audit</p><h1>{title}</h1>',
            f'<p class="lead">{markup.escape(lead)}</p><nav>{nav}</nav></header>\n',
            f"<main>\n{_verdict(audit)}{_tiles(audit)}{body}\n",
            "<footer>Made by geomol; this page loads nothing from the network.</footer></main>\n</body>\n</html>\n",
        ]
    )


def _verdict(audit: Audit) -> str:
    kind, word = ("", "Passed.") if audit.passed else (" fail", "Failed.")
    return f'<p class="verdict{kind}"><b>{word}</b> {markup.escape(audit.verdict)}</p>'


def _tiles(audit: Audit) -> str:
    claim = audit.claim
    kinds = ["on average" if claim.stochastic else "exact" if claim.exact else "approximate"]
    kinds += [] if claim.continuous else ["not continuous"]
    tiles = [
        markup.tile("Claimed symmetry", claim.group, sub=", ".join(kinds)),
        markup.tile("Holds to rounding", audit.measured_group, sub="besides permutations, where these hold"),
    ]
    for part in ("rotations", "reflections"):
        row = _main_row(audit, part)
        if row is not None and row.relative is not None:
            tiles.append(
                markup.tile(f"Error under {part}", number(100 * row.relative, 2), "%", f"E′ of the {row.output}")
            )
    torque = next((row for row in audit.rows if row.check == "net torque"), None)
    if torque is not None:
        tiles.append(markup.tile("Net torque", number(1e3 * torque.value, 2), "meV", "at most, about the centroid"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _main_row(audit: Audit, check: str) -> Row | None:
    """The row of forces, or of the output that comes first."""
    rows = [row for row in audit.rows if row.check == check]
    return next((row for row in rows if row.output == "forces"), rows[0] if rows else None)


def _errors(audit: Audit, draw: Draw) -> str:
    ladder, heatmap = error_panels(audit)
    summary = markup.card(_summary(audit), title="In short")
    return f'<div class="grid">{draw(ladder)}{summary}</div><div class="wide">{draw(heatmap)}</div>'


_FEW = 2  # outputs whose errors fit into one line
_PARTS = (
    "permutations",
    "translations",
    "rotations",
    "reflections",
    "momentum",
    "gradient",
    "continuity",
    "smoothness",
)


def _summary(audit: Audit) -> str:
    """One line for each part of the claim: the worst of its checks."""
    names = {"momentum": "no net force or torque", "gradient": "forces are a gradient", "smoothness": "smooth cutoff"}
    lines = []
    for part in _PARTS:
        rows = [row for row in audit.rows if row.claim == part]
        if not rows:
            continue
        judged = [row for row in rows if row.status in ("pass", "fail")]
        failed = any(row.status == "fail" for row in judged)
        status = "fail" if failed else "pass" if judged else "not claimed"
        finite = [row for row in judged or rows if not row.check.startswith("Lie") and "symmetric" not in row.check]
        worst: dict[str, float] = {}
        for row in finite:
            if row.relative is not None:
                worst[row.output] = max(worst.get(row.output, 0.0), row.relative)
        size = _sizes(worst)
        lines.append(
            f"<tr><td>{markup.escape(names.get(part, part))}</td><td>{_chip(status)}</td>"
            f'<td class="detail">{markup.escape(size)}</td></tr>'
        )
    head = "<thead><tr><th>Part</th><th>Claim</th><th>Worst relative error</th></tr></thead>"
    return f'<div class="scroll"><table class="checks">{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _sizes(worst: dict[str, float]) -> str:
    """Relative errors in words: of each output, or, where these are many, the largest of all."""
    if len(worst) > _FEW:
        name = max(worst, key=lambda key: worst[key])
        return f"at most {number(worst[name], 2)}, of the {name}"
    return ", ".join(f"{number(value, 2)} of the {name}" for name, value in worst.items()) or "–"


def _chip(status: str) -> str:
    kind = status if status in ("pass", "fail") else "other"
    return f'<span class="chip {kind}">{status}</span>'


def _cards(panels: list[Panel], draw: Draw) -> str:
    if not panels:
        return markup.missing("No orbits were drawn.")
    return markup.grid(draw(panel) for panel in panels)


def _inside(audit: Audit, draw: Draw) -> str:
    entries = {f"LEE of the {name}": f"{number(value, 2)} {_squared(audit, name)}" for name, value in audit.lee.items()}
    for row in audit.rows:
        if row.claim in ("momentum", "gradient"):
            unit = f" {unit_in_words(row.unit)}" if row.unit else f" {row.detail}"
            entries[row.check] = f"{number(row.value, 2)}{unit}"
    entries["derivatives taken by"] = audit.method
    caption = "LEE: sum of the mean squares of the Lie derivatives over translations and rotations."
    if _has_forces(audit):
        caption += (
            " For an energy these are minus the net force and the net torque; the two are computed in different ways "
            "and must agree."
        )
    figures = markup.card(markup.pairs(entries), title="In figures", caption=caption)
    return markup.grid([*(draw(panel) for panel in inside_panels(audit)), figures])


def _has_forces(audit: Audit) -> bool:
    return "forces" in audit.kinds


def _squared(audit: Audit, name: str) -> str:
    unit = unit_in_words(audit.kinds[name].unit)
    return f"({unit})² per Å² and rad²" if unit else "per Å² and rad²"


def _continuity(audit: Audit, draw: Draw) -> str:
    panels = continuity_panels(audit)
    if not panels:
        return markup.missing("No paths were searched: the predictions depend on random poses.")
    return markup.grid(draw(panel) for panel in panels)


def _checks(rows: list[Row]) -> str:
    header = ["Check", "Output", "Largest error", "Bar", "Relative", "Result", ""]
    head = "".join(f"<th{_numeric(name)}>{markup.escape(name)}</th>" for name in header)
    body = "".join(_check(row) for row in rows)
    return (
        f'<div class="scroll"><table class="checks"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _numeric(name: str) -> str:
    return ' class="num"' if name in ("Largest error", "Bar", "Relative") else ""


def _check(row: Row) -> str:
    unit = f" {unit_in_words(row.unit)}" if row.unit else ""
    bar = "–" if row.bar is None else f"{number(row.bar, 2)}{unit}"
    relative = "–" if row.relative is None else number(row.relative, 2)
    cells = [
        f"<td>{markup.escape(row.check)}</td><td>{markup.escape(row.output)}</td>",
        f'<td class="num">{markup.escape(number(row.value, 2) + unit)}</td><td class="num">{markup.escape(bar)}</td>',
        f'<td class="num">{markup.escape(relative)}</td><td>{_chip(row.status)}</td>',
        f'<td class="detail">{markup.escape(row.detail)}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


_GLOSSARY = {
    "E′": "mean ‖f(gx) − ρ(g)f(x)‖ / mean ‖f(x)‖: the relative error under finite motions g.",
    "Energy": "without the energies of the isolated atoms, beside which any error would look small.",
    "Spreads": "how much the target varies in the training data: the unit of its errors, without mean and references.",
    "Logits": "what the probabilities are made of; they show errors where a class is beyond doubt.",
    "Positions at noise s": "the clean structure that is expected behind x + s ε, with s in standard deviations of the "
    "coordinates; noise is turned, renumbered and centred with the structure.",
    "Elements, bonds": "scores of the elements, and of the bond orders that a node is in, at all levels of noise.",
    "Bar": "what the largest error must not exceed if the claim is to hold; it grows with the size of the output.",
    "Orbit": "the error of one structure in many poses; flat for an equivariant model.",
    "Consensus": "the mean of the predictions over all poses, turned back: stands for the truth where there is none.",
    "Lie derivative": "the rate at which the output leaves the equivariant one at the start of a motion.",
    "Equal axes": "structures with two equal principal axes, where frames taken from these axes jump.",
}


def _words(audit: Audit) -> str:
    """The glossary, without words of other kinds of models."""
    units = {kind.unit for kind in audit.kinds.values()}
    said = {
        "Energy": "energy" in audit.kinds,
        "Spreads": "spreads" in units,
        "Logits": "logits" in audit.kinds,
        "Positions at noise s": any(name.startswith("positions at noise") for name in audit.kinds),
        "Elements, bonds": "elements" in audit.kinds,
    }
    words = {key: text for key, text in _GLOSSARY.items() if said.get(key, True)}
    if _has_forces(audit):
        words["Lie derivative"] = words["Lie derivative"].rstrip(".") + "; for an energy minus the net force or torque."
    entries = "".join(f"<dt>{markup.escape(k)}</dt><dd>{markup.escape(v)}</dd>" for k, v in words.items())
    return f'<div class="card"><dl class="words">{entries}</dl></div>'
