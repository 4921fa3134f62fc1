"""A report as data: written once, rendered as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """A table cell that is marked with a colour in HTML, such as a verdict."""

    text: str
    mark: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A paragraph nobody may overlook."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column is flush left, the others right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""
    text_columns: int = 1
    """Leading columns that hold words."""


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows in words, for those who cannot see it."""

    name: str
    png: bytes = field(repr=False)
    alt: str
    caption: str


Block = Text | Notice | Bullets | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report. Every text is plain; the renderers escape it."""

    title: str
    blocks: Sequence[Block]
    sections: Sequence[Section]
    footer: str

    @property
    def pictures(self) -> list[Picture]:
        """Every picture, in order."""
        return [
            block
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Picture)
        ]


def cell_text(cell: str | Cell) -> str:
    """Text of a cell, marked or not."""
    return cell.text if isinstance(cell, Cell) else cell
