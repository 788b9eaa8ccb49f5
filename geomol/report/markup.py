"""Small pieces of HTML. Every string that enters through these functions is escaped here and nowhere else."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from geomol.report.plots import number


def escape(value: object) -> str:
    """Text for HTML content or a quoted attribute."""
    return html.escape(str(value), quote=True)


def tile(label: str, value: str, unit: str = "", sub: str = "") -> str:
    """A figure to see at first glance."""
    shown_unit = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    below = f'<div class="sub">{escape(sub)}</div>' if sub else ""
    return (
        f'<div class="tile"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}{shown_unit}</div>{below}</div>'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is a name and whose other columns are numbers, right-aligned."""
    head = "".join(f"<th{_numeric(i)}>{escape(cell)}</th>" for i, cell in enumerate(header))
    body = "".join(
        "<tr>" + "".join(f"<td{_numeric(i)}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _numeric(column: int) -> str:
    return ' class="num"' if column else ""


def pairs(entries: Mapping[str, Any]) -> str:
    """A two-column table of names and values."""
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in entries.items())
    return f'<div class="scroll"><table class="pairs"><tbody>{rows}</tbody></table></div>'


def card(content: str, *, title: str = "", caption: str = "") -> str:
    """A framed block; `content` is HTML, title and caption are text."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    foot = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    return f'<div class="card">{head}{content}{foot}</div>'


def grid(cards: Iterable[str]) -> str:
    """Cards side by side, as many as fit."""
    return f'<div class="grid">{"".join(cards)}</div>'


def note(text: str) -> str:
    """A sentence the reader should not miss."""
    return f'<p class="note">{escape(text)}</p>'


def missing(text: str) -> str:
    """A sentence in place of a part that is not there."""
    return f'<p class="muted">{escape(text)}</p>'


def section(name: str, title: str, content: str) -> str:
    """A titled part of the page that the navigation can jump to; `name` is an identifier of ours."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted names and printable values; lists stay whole, long ones are cut visibly."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            flat.update(flatten(item, prefix=f"{name}."))
        else:
            flat[name] = printable(item)
    return flat


def printable(value: Any) -> str:
    """A setting as a reader would write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not set"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else f"{text[:300]} … ({len(text):,} characters)"


def duration(seconds: float) -> tuple[str, str]:
    """A time span as (number, unit) with two leading parts: `12 min 3` and `s`; a second part of 0 is left out."""
    if not seconds >= 0:
        return "not known", ""
    if seconds < 60:
        return number(seconds), "s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return (f"{minutes} min {rest}", "s") if rest else (str(minutes), "min")
    hours, rest = divmod(minutes, 60)
    return (f"{hours} h {rest}", "min") if rest else (str(hours), "h")


def script_json(text: str) -> str:
    """JSON made safe inside a `<script>` element: no markup can begin in it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
