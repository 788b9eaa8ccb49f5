"""The look of every figure: one palette, one size, and how a figure becomes text inside a page.

Figures are made through matplotlib's object interface; pyplot and its global state are never touched.
"""

from __future__ import annotations

import html
import io
import re
import textwrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2a37", "#64748b", "#dde3ea"
BLUE, AMBER, GREEN, PURPLE, RED = "#3a76b4", "#d9822b", "#3f9a75", "#8768b0", "#c4524a"
SERIES = (BLUE, AMBER, GREEN, PURPLE, RED)
"""Line colours, in the order of use; legible on white and, as CSS variables, on a dark page."""

CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    BLUE: "--c1",
    AMBER: "--c2",
    GREEN: "--c3",
    PURPLE: "--c4",
    RED: "--c5",
}

FONT_SIZE = 9.5  # points; the page scales a figure to about 1.5 times its size on a desktop, 1.0 on a phone
CHARACTER = 0.58 * FONT_SIZE / 72  # inches; what a character of a label takes on average


def new_figure(*, width: float = 4.8, height: float = 3.4) -> tuple[Figure, Axes]:
    """An empty figure of the house size (inches) with one styled pair of axes."""
    figure = Figure(figsize=(width, height), dpi=144, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Quiet spines, ticks and grid."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(which="both", colors=MUTED, labelsize=FONT_SIZE - 1, width=0.8, labelcolor=MUTED)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Axis labels with their units, in lines that the figure has room for.

    `$` in a label is a character, not mathematics.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches().tolist()
    axes.set_xlabel(in_lines(x, 0.9 * width), fontsize=FONT_SIZE, color=INK, parse_math=False)
    axes.set_ylabel(in_lines(y, 0.8 * height), fontsize=FONT_SIZE, color=INK, parse_math=False)


def in_lines(text: str, inches: float) -> str:
    """The text broken into lines of about so many inches."""
    return textwrap.fill(text, max(8, int(inches / CHARACTER)), break_on_hyphens=False)


def add_legend(axes: Axes, *, loc: str = "best") -> None:
    """A frameless legend, if there is anything to name; names given by the user are never read as mathematics."""
    if not axes.get_legend_handles_labels()[0]:
        return
    legend = axes.legend(frameon=False, fontsize=FONT_SIZE - 1, labelcolor=INK, loc=loc, handlelength=1.4)
    for text in legend.get_texts():
        text.set_parse_math(False)


def annotate(axes: Axes, text: str, *, x: float = 0.04, y: float = 0.96) -> None:
    """A short note inside the axes (fractions of the axes), top-left unless told."""
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        va="top" if y > 0.5 else "bottom",
        ha="left" if x < 0.5 else "right",
        fontsize=FONT_SIZE,
        color=INK,
        linespacing=1.35,
        parse_math=False,
    )


def to_svg(figure: Figure, *, prefix: str, label: str) -> str:
    """The figure as an `<svg>` element for inlining: text stays text, colours follow the page.

    Args:
        figure: the figure; its white background is left out.
        prefix: put before every id, so that several figures can share a page.
        label: read out by screen readers.

    The result depends on the figure alone (no date, no random ids), so equal input gives equal pages.
    """
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # matplotlib offers these two switches only as settings; the context restores them at once.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "geomol"}):
        figure.savefig(buffer, format="svg", facecolor="none", metadata=nothing)
    svg = buffer.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{prefix}-\2"', svg)
    for colour, variable in CSS_VARIABLES.items():
        svg = re.sub(re.escape(colour), f"var({variable})", svg, flags=re.IGNORECASE)
    head = f'<svg role="img" aria-label="{html.escape(label, quote=True)}" '
    view_box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    return f"{head}{view_box.group(0) if view_box else ''}>{body}".strip()
