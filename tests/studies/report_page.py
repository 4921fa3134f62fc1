"""A report as its reader sees it: sections with their text and tables."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree.ElementTree import Element, TreeBuilder

from seglab.studies.report.page import report_experiment
from seglab.tracking.store import Store

VOID, RUNS = {"meta", "img"}, {"script", "link", "iframe", "object", "embed"}


def words(element: Element) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext()))


class Section:
    def __init__(self, element: Element) -> None:
        self.title = words(next(element.iter("h2")))
        self.text = words(element)
        tables = element.iter("table")
        self.tables = [[[*map(words, row)] for row in table.iter("tr")] for table in tables]
        self.items = [words(item) for item in element.iter("li")]
        self.pictures = [image.get("alt") for image in element.iter("img")]

    @property
    def facts(self) -> dict[str, str]:
        """Tables of two columns."""
        return dict(row for table in self.tables for row in table if len(row) == 2)

    def table(self, heading: str) -> list[dict[str, str]]:
        """Rows of the table whose first column has this heading, by heading."""
        found = next(table for table in self.tables if table[0][0] == heading)
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


class Page(HTMLParser):
    """Parses a report: its sections, what a browser would load, and where its links lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._builder, self._open = TreeBuilder(), list[str]()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.handle_endtag("html")  # where the page leaves it open
        page = self._builder.close()
        (main,) = page.iter("main")
        self.text = words(main)
        self.scripts = [words(script) for script in page.iter("script")]
        self.sections = {one.title: one for one in map(Section, page.iter("section"))}

    def __getitem__(self, title: str) -> Section:
        return self.sections[title]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self._builder.start(tag, values)
        self._open.append(tag)
        if tag in VOID:
            self.handle_endtag(tag)
        if tag == "a" and not values["href"].startswith("#"):
            self.links.append(values.pop("href"))
        fetched = {key for key in values.keys() & {"src", "href"} if values[key][:1] != "#"}
        fetched -= {key for key in fetched if values[key].startswith("data:image/")}
        if fetched or (tag in RUNS and (tag, attrs) != ("script", [])):
            self.loads.append(tag)
        self.loads += [f"{tag} {key}" for key in values if key.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._builder.end(self._open.pop()).tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        self._builder.data(data)


def page_of(store: Store, name: str) -> Page:
    return Page(report_experiment(store, name).read_text())
