"""A report as its reader sees it: sections with their text and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

RUNS = {"script", "link", "iframe", "object", "embed"}


@dataclass
class Section:
    title: str = ""
    text: str = ""
    tables: list[list[list[str]]] = field(default_factory=list)
    """Rows of cells of each; the first row of most is the headings."""
    items: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, str]:
        """Tables of two columns."""
        return dict(row for table in self.tables for row in table if len(row) == 2)

    def table(self, heading: str) -> list[dict[str, str]]:
        """Rows of the table whose first column has this heading, by heading."""
        found = next(table for table in self.tables if table[0][0] == heading)
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


class Page(HTMLParser):
    """Parses a report; the first section is what stands before the others."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all = [Section("")]
        self.loads: list[str] = []
        """What a browser would run or fetch."""
        self.links: list[str] = []
        """Where a reader may go from it."""
        self.scripts: list[str] = []
        self._in: list[str] = []
        self.feed(text)

    def __getitem__(self, title: str) -> Section:
        return next(section for section in self.all if section.title == title)

    @property
    def text(self) -> str:
        return " ".join(section.text for section in self.all)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if tag in RUNS and (tag, values) != ("script", {}):
            self.loads.append(tag)
        if tag == "a" and not values["href"].startswith("#"):
            self.links.append(values.pop("href"))
        for key, value in values.items():
            fetched = key in {"src", "href"} and not value.startswith(("data:image/", "#"))
            if fetched or key.startswith("on"):
                self.loads.append(f"{tag} {key}={value}")
        section = self.all[-1]
        if tag == "section":
            self.all.append(Section())
        elif tag == "table":
            section.tables.append([])
        elif tag == "tr":
            section.tables[-1].append([])
        elif tag in ("th", "td"):
            section.tables[-1][-1].append("")
        elif tag == "li":
            section.items.append("")
        elif tag == "img":
            section.pictures.append(values["alt"])
        if tag not in ("meta", "img"):
            self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        section, inside, data = self.all[-1], set(self._in), re.sub(r"\s+", " ", data)
        if "script" in inside:
            self.scripts.append(data)
        if inside & {"style", "title", "nav", "script"}:
            return
        if "h2" in inside:
            section.title += data
        elif inside & {"td", "th"}:
            section.tables[-1][-1][-1] += data
        elif "li" in inside:
            section.items[-1] += data
        section.text += data
