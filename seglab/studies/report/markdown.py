"""Rendering a document as Markdown, which is also what a terminal shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

from seglab.studies.report.document import (
    Block,
    Bullets,
    Document,
    Notice,
    Picture,
    Table,
    Text,
    cell_text,
)

FIGURES = "figures"


def render_markdown(document: Document) -> str:
    """Render everything; pictures are linked as files under ``figures/``."""
    parts = [f"# {escape(document.title)}", *map(_block, document.blocks)]
    for section in document.sections:
        parts += [f"## {escape(section.title)}", *map(_block, section.blocks)]
    return "\n\n".join([*parts, f"*{escape(document.footer)}*"]) + "\n"


def escape(text: str) -> str:
    """Escape what Markdown or the HTML inside it would read as markup; one line."""
    one_line = " ".join(text.split())
    escaped = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def plain_table(table: Table) -> str:
    """Lay a table out in columns for a terminal."""
    rows = [[" ".join(cell_text(cell).split()) for cell in row] for row in table.rows]
    return "\n".join(_aligned(table.header, rows, table.text_columns, "  ", ""))


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return escape(text)
        case Notice(text):
            return f"> **Note:** {escape(text)}"
        case Bullets(items):
            return "\n".join(f"- {escape(item)}" for item in items)
        case Picture(name=name, alt=alt, caption=caption):
            return f"![{escape(alt)}]({FIGURES}/{name}.png)\n\n{escape(caption)}"
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    header = [escape(name) for name in table.header]
    rows = [[escape(cell_text(cell)) for cell in row] for row in table.rows]
    lines = _aligned(header, rows, table.text_columns, " | ", "| ")
    return "\n".join(lines) + (f"\n\n{escape(table.note)}" if table.note else "")


def _aligned(
    header: Sequence[str], rows: Sequence[Sequence[str]], words: int, between: str, edge: str
) -> list[str]:
    widths = [max(3, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        laid = [
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return (edge + between.join(laid) + edge[::-1]).rstrip()

    colon = ":" if edge else "-"
    rule = [
        "-" * width if place < words else "-" * (width - 1) + colon
        for place, width in enumerate(widths)
    ]
    return [line(header), line(rule), *map(line, rows)]
