"""A reader of the page of a run."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from geomol.report import write_report


class Page(HTMLParser):
    """Collects tags with their attributes, the text outside scripts and styles, and the JSON scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.json: dict[str, str] = {}
        self.scripts: list[str] = []
        self._inside: tuple[str, str | None] | None = None
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = (tag, dict(attrs).get("id"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.words.append(data)
        elif self._inside[0] == "script" and self._inside[1] is not None:
            self.json[self._inside[1]] = data
        elif self._inside[0] == "script":
            self.scripts.append(data)


def report(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))
