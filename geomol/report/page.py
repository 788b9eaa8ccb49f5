"""The report of a run: one HTML file that holds everything it shows and asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import itertools
import os
import platform
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from geomol.errors import OutputError
from geomol.report import markup, origin_sections, sections
from geomol.report.molecules import molecules_section
from geomol.report.panels import Panel, evaluation_panels, simulation_panels, stated_panels, training_panels
from geomol.report.run import Run, read_run
from geomol.report.style import to_svg

VIEWER_VERSION = "3Dmol.js 2.5.5"
LIBRARIES = ("geomol", "torch", "torch-geometric", "e3nn", "ase", "numpy", "matplotlib")


def write_report(run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run folder and return its path.

    Parts that are missing or damaged are named in a sentence and left out. Equal folders give equal files under
    equal library versions: the page holds no date and no random names.

    Args:
        run_dir: folder written by training, with eval/ and md/ beside the log where those were run.
        out: the HTML file; `report.html` in the run folder unless given.

    Raises:
        DataError: there is no such folder.
        OutputError: the file could not be written.
    """
    folder = Path(run_dir)
    run = read_run(folder)
    path = folder / "report.html" if out is None else Path(out)
    write_page(path, render(run))
    return path


def save_plots(run_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write every figure of the report as PNG (`plots/` of the run folder unless given); the paths, in page order.

    Raises:
        DataError: there is no such folder.
        OutputError: a file could not be written.
    """
    folder = Path(run_dir)
    run = read_run(folder)
    target = folder / "plots" if out_dir is None else Path(out_dir)
    panels = training_panels(run.metrics)
    panels += [panel for evaluation in run.evaluations for panel in evaluation_panels(evaluation)]
    panels += stated_panels(run.stated)
    panels += [panel for simulation in run.simulations for panel in simulation_panels(simulation)]
    written = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for panel in panels:
            path = target / f"{panel.name}.png"
            panel.figure.savefig(path, dpi=160, metadata={"Software": None})
            written.append(path)
    except OSError as error:
        raise OutputError("the plots could not be written", where=str(target), got=str(error)) from error
    return written


def render(run: Run) -> str:
    """The whole page as text."""
    draw = figure_drawer()
    has_trajectory = any(simulation.trajectory is not None for simulation in run.simulations)
    parts = [
        ("training", "Training", sections.training(run, draw)),
        ("accuracy", "Accuracy", sections.accuracy(run, draw)),
        *([("dynamics", "Molecular dynamics", sections.dynamics(run, draw))] if _may_move(run) else []),
        *([("molecules", "Molecules", molecules_section(run))] if run.generated else []),
        ("configuration", "Configuration", origin_sections.configuration(run)),
        ("provenance", "Provenance", origin_sections.provenance(run, _versions())),
    ]
    nav = "".join(f'<a href="#{name}">{markup.escape(title)}</a>' for name, title, _ in parts)
    body = "".join(markup.section(name, title, content) for name, title, content in parts)
    scripts = [read_resource("vendor", "3Dmol-min.js"), read_resource("assets", "viewer.js")] if has_trajectory else []
    title = markup.escape(run.name)
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{content_policy(scripts)}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{title} · geomol report</title>\n<style>\n{read_resource('assets', 'report.css')}</style>\n",
            "</head>\n<body>\n",
            f'<header><p class="eyebrow">geomol report</p><h1>{title}</h1>',
            f"{sections.lead(run)}<nav>{nav}</nav></header>\n",
            f"<main>\n{sections.tiles(run)}{''.join(markup.note(text) for text in run.notes)}{body}\n",
            f"{_footer(has_trajectory)}</main>\n",
            *(f"<script>{script}</script>\n" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def _may_move(run: Run) -> bool:
    """Whether molecular dynamics concerns this run: of models with other tasks than forces there is none to miss."""
    return bool(run.simulations) or run.config.get("task", "potential") == "potential"


def figure_drawer() -> Callable[[Panel], str]:
    """A function that draws panels as cards, each figure under its own prefix for ids."""
    counter = itertools.count(1)

    def draw(panel: Panel) -> str:
        svg = to_svg(panel.figure, prefix=f"f{next(counter)}", label=f"{panel.title}. {panel.caption}")
        return markup.card(f"<figure>{svg}</figure>", title=panel.title, caption=panel.caption)

    return draw


def content_policy(scripts: list[str]) -> str:
    """Content security policy: nothing is loaded from anywhere, and only our own scripts run, known by their hash."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def read_resource(folder: str, name: str) -> str:
    text = (files("geomol.report") / folder / name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")  # the parser of HTML does the same before it checks the hash


def _footer(has_trajectory: bool) -> str:
    viewer = ""
    if has_trajectory:
        licence = (
            read_resource("vendor", "3Dmol-LICENSE.txt") + "\n" + read_resource("vendor", "3Dmol-bundled-LICENSES.txt")
        )
        viewer = (
            f" The 3D view is {VIEWER_VERSION} (BSD-3-Clause; Rego and Koes, Bioinformatics 31, 1322, 2015)."
            '<details><summary>Licences of the 3D view</summary><div class="scroll">'
            f"<pre>{markup.escape(licence)}</pre></div></details>"
        )
    return f"<footer>Made by geomol; this page loads nothing from the network.{viewer}</footer>"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_page(path: Path, text: str) -> None:
    """Write beside the target, then rename: a reader never sees half a page."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n", dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError("the report could not be written", where=str(path), got=str(error)) from error
