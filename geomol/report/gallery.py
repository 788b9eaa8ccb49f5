"""The gallery of generated molecules: one HTML file with metrics, formulas, a 3D viewer, filters, and no network."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geomol.data import Structures
from geomol.generate.molecules import Molecules
from geomol.generate.score import Score
from geomol.report import markup
from geomol.report.gallery_data import Contents, payload, to_json
from geomol.report.gallery_panels import failures, metrics, panels, tiles
from geomol.report.page import VIEWER_VERSION, content_policy, figure_drawer, read_resource, write_page

_LONG = ' class="long"'


def write_gallery(
    out: str | os.PathLike[str],
    molecules: Molecules,
    scores: Mapping[str, Score],
    *,
    title: str,
    facts: Mapping[str, str] | None = None,
    properties: Sequence[Mapping[str, float | str]] = (),
    relaxed: Structures | None = None,
    trajectories: Mapping[int, tuple[np.ndarray, np.ndarray]] | None = None,
    train_smiles: Mapping[str, Collection[str]] | None = None,
    data: Mapping[str, Score] | None = None,
    data_name: str = "data",
) -> Path:
    """Write the page and return its path; equal arguments give equal pages under equal library versions.

    Molecules are numbered from 0, as in the table of `geomol score --csv`; `#molecule=3` at the end of the address
    opens one of them. A page of 1 000 molecules of QM9 has about 2 MB.

    Args:
        out: the HTML file.
        molecules: all of them, failures included.
        scores: by protocol, at least one; the bonds of the first are drawn.
        title, facts: heading, and how the molecules were made (model, command, seed, …), shown in this order.
        properties: of each molecule, for sorting and reading; a unit at the end of a name, as in `strain_kcal_per_mol`,
            is shown as such. Those that came with the molecules are shown too.
        relaxed: the same atoms after relaxation; NaN where there is none.
        trajectories: frames on the way from noise, by molecule: positions (T, n, 3) in Å and atomic numbers (T, n).
        train_smiles: SMILES of the training molecules by protocol; without them nothing is said of novelty.
        data, data_name: scores of the data by the same protocols, shown beside, and what the data are.

    Raises:
        ConfigError: no score. InputError: parts of other molecules. OutputError: the file could not be written.
    """
    contents = Contents(molecules, scores, properties, relaxed, trajectories or {}, train_smiles or {})
    path = Path(out)
    text = render(contents, title=title, facts=facts or {}, data=data or {}, data_name=data_name)
    # Names from files may hold half characters that have no place in a file.
    write_page(path, text.encode("utf-8", errors="replace").decode("utf-8"))
    return path


def render(
    contents: Contents, *, title: str, facts: Mapping[str, str], data: Mapping[str, Score], data_name: str
) -> str:
    """The whole page as text."""
    shown = payload(contents)
    draw = figure_drawer()
    numbers = contents.molecules.structures.numbers
    drawn = panels(numbers, contents.scores, data, shown["properties"])
    parts = [
        ("molecules", "Molecules", _gallery(contents, shown)),
        ("metrics", "Metrics", metrics(contents.scores, data, data_name)),
        ("faults", "Faults", failures(contents.scores)),
        ("distributions", "Distributions", markup.grid(draw(panel) for panel in drawn)),
        ("words", "What the words mean", _words(contents)),
    ]
    nav = "".join(f'<a href="#{name}">{markup.escape(heading)}</a>' for name, heading, _ in parts)
    body = "".join(markup.section(name, heading, content) for name, heading, content in parts)
    scripts = [
        read_resource("vendor", "3Dmol-min.js"),
        read_resource("assets", "gallery_viewer.js"),
        read_resource("assets", "gallery.js"),
    ]
    heading = markup.escape(title)
    style = read_resource("assets", "report.css") + read_resource("assets", "gallery.css")
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{content_policy(scripts)}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{heading} · geomol molecules</title>\n<style>\n{style}</style>\n</head>\n<body>\n",
            f'<header><p class="eyebrow">geomol molecules</p><h1>{heading}</h1>{_facts(facts)}',
            f"<nav>{nav}</nav></header>\n",
            f"<main>\n{tiles(contents.scores, data)}{body}\n{_footer()}</main>\n{_dialog()}\n",
            f'<script type="application/json" id="gallery-data">{markup.script_json(to_json(shown))}</script>\n',
            *(f"<script>{script}</script>\n" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def _facts(facts: Mapping[str, str]) -> str:
    entries = "".join(
        f"<div{_LONG if len(str(value)) > 60 else ''}><dt>{markup.escape(name)}</dt>"
        f"<dd>{markup.escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{entries}</dl>' if entries else ""


def _gallery(contents: Contents, shown: Mapping[str, Any]) -> str:
    """The controls; the script fills in the cards."""
    options = "".join(
        f'<option value="{i}">{markup.escape(protocol["name"])}</option>'
        for i, protocol in enumerate(shown["protocols"])
    )
    orders = "".join(
        f'<option value="p{i}">{markup.escape(column["label"])}</option>'
        for i, column in enumerate(shown["properties"])
    )
    asked = ["stable", "valid", "connected", "unique"] + (["novel"] if contents.train_smiles else [])
    names = {"connected": "One piece", "unique": "First of its kind", "novel": "New"}
    questions = "".join(
        f'<label>{names.get(name, name.capitalize())}<select id="ask-{name}" class="ask" data-flag="{name}">'
        '<option value="">any</option><option value="1">yes</option><option value="0">no</option></select></label>'
        for name in asked
    )
    notes = ""
    if shown["omitted"]:
        notes = markup.note(f"{shown['omitted']:,} denoising trajectories found no room in this page.")
    return (
        '<noscript><p class="note">The molecules of this page are drawn by a script, which this browser does not run.'
        f"</p></noscript>{notes}"
        f'<div class="card filters" role="search"><label>Judged by<select id="protocol">{options}</select></label>'
        f'{questions}<label>Fault<select id="fault"><option value="">any</option></select></label>'
        '<label>Atoms<span class="range"><input id="atoms-from" type="number" min="0" placeholder="from">'
        '<input id="atoms-to" type="number" min="0" placeholder="to" aria-label="Atoms, at most"></span></label>'
        '<label class="text">SMILES or formula<input id="text" type="search" placeholder="c1ccccc1, C7H10O2, …" '
        'autocomplete="off" spellcheck="false"></label>'
        '<label>Sort by<span class="range"><select id="sort"><option value="index">number</option>'
        f'<option value="atoms">atoms</option><option value="formula">formula</option>{orders}</select>'
        '<button id="direction" type="button" aria-label="Order: ascending">↑</button></span></label>'
        '<button id="clear" type="button">Clear</button></div>'
        '<div class="pager"><span class="found" role="status"></span><span class="turn"></span></div>'
        '<div id="cards" class="mols"></div><div class="pager"><span></span><span class="turn"></span></div>'
    )


def _words(contents: Contents) -> str:
    first = contents.first.protocol
    entries = {
        "Stable": "every atom has the bonds that its element wants, by the protocol chosen.",
        "Valid": "RDKit accepts the bonds; a protocol may ask for more, such as one neutral piece.",
        "One piece": "all atoms hang together by bonds.",
        "First of its kind": "no earlier molecule of this page has the same SMILES.",
        "New": "the SMILES is not among those of the training molecules.",
        "Red halo": "an atom whose bonds do not fit its element. Formulas leave out hydrogen on carbon.",
        "Bonds": f"as the protocol “{first}” sees them. In relaxed molecules and on the way from noise they are those "
        "of the distance tables of EDM, where these differ.",
        "Numbers": "molecules and atoms are counted from 0.",
    }
    words = "".join(f"<dt>{markup.escape(k)}</dt><dd>{markup.escape(v)}</dd>" for k, v in entries.items())
    return f'<div class="card"><dl class="words">{words}</dl></div>'


def _dialog() -> str:
    looks = (("balls", "Balls and sticks"), ("sticks", "Sticks"), ("spheres", "Spheres"))
    options = "".join(f'<option value="{value}">{text}</option>' for value, text in looks)
    return (
        '<dialog id="show" aria-labelledby="show-title"><div class="bar"><h2 id="show-title"></h2>'
        '<span class="place"></span><button type="button" class="before" aria-label="Previous molecule">←</button>'
        '<button type="button" class="after" aria-label="Next molecule">→</button>'
        '<button type="button" class="close" aria-label="Close">✕</button></div><div class="halves">'
        '<div class="left"><div class="views controls" role="group" aria-label="What is shown"></div>'
        '<div class="stage"></div><p class="remark" role="status"></p><div class="controls play-row">'
        '<button type="button" class="play" aria-pressed="false">▶ Play</button>'
        '<input type="range" class="frame" min="0" value="0" aria-label="Frame"><span class="readout"></span></div>'
        f'<div class="controls"><select class="look" aria-label="Style">{options}</select>'
        '<label><input type="checkbox" class="hydrogens" checked> hydrogens</label>'
        '<label><input type="checkbox" class="labels"> atom numbers</label>'
        '<button type="button" class="reset">Reset view</button></div></div><div class="right"></div></div></dialog>'
    )


def _footer() -> str:
    licence = "\n".join(read_resource("vendor", f"{name}.txt") for name in ("3Dmol-LICENSE", "3Dmol-bundled-LICENSES"))
    return (
        "<footer>Made by geomol; this page loads nothing from the network. "
        f"The 3D view is {VIEWER_VERSION} (BSD-3-Clause; Rego and Koes, Bioinformatics 31, 1322, 2015), the formulas "
        'are by RDKit.<details><summary>Licences of the 3D view</summary><div class="scroll">'
        f"<pre>{markup.escape(licence)}</pre></div></details></footer>"
    )
