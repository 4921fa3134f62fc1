"""Rendering a document as one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
from html import escape
from importlib.resources import files

from seglab.studies.report.document import (
    Block,
    Bullets,
    Cell,
    Document,
    Notice,
    Picture,
    Table,
    Text,
)

# Even if a name slipped through unescaped, the browser would run and fetch nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
<footer>{footer}</footer>
</body>
</html>
"""


def render_html(document: Document) -> str:
    """Render everything, pictures embedded, into one page."""
    parts = [_block(block) for block in document.blocks]
    parts.append(_contents(document))
    for number, section in enumerate(document.sections):
        inner = "\n".join(_block(block) for block in section.blocks)
        parts.append(
            f'<section id="s{number}">\n<h2>{escape(section.title)}</h2>\n{inner}\n</section>'
        )
    return PAGE.format(
        policy=POLICY,
        title=escape(document.title),
        style=(files(__package__) / "report.css").read_text(encoding="utf-8"),
        body="\n".join(parts),
        footer=escape(document.footer),
    )


def _contents(document: Document) -> str:
    links = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(document.sections)
    )
    return f"<nav>{links}</nav>"


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Notice(text):
            return f'<p class="notice">{escape(text)}</p>'
        case Bullets(items):
            inner = "".join(f"<li>{escape(item)}</li>" for item in items)
            return f"<ul>{inner}</ul>"
        case Picture():
            return _picture(block)
        case Table():
            return _table(block)


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure><img alt="{escape(picture.alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(_cell("th", name, i < table.text_columns) for i, name in enumerate(table.header))
    body = "\n".join(
        "<tr>"
        + "".join(_cell("td", cell, i < table.text_columns) for i, cell in enumerate(row))
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _cell(tag: str, cell: str | Cell, is_text: bool) -> str:
    kind = ' class="text"' if is_text else ""
    if isinstance(cell, Cell):
        mark = cell.mark.replace(" ", "-")
        return f'<{tag}{kind}><b class="mark {escape(mark)}">{escape(cell.text)}</b></{tag}>'
    return f"<{tag}{kind}>{escape(cell)}</{tag}>"
