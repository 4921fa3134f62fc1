"""The table as a person reads it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.run import Row

WIDTH = 96
_COLUMNS = "{:<26}{:>14}{:>14}  {:<12}{:>9}{:>10}  {}"


def headline(machine: Mapping[str, Any], data: str) -> str:
    """What was measured on what, and the names of the columns."""
    where = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"
    bf16 = "with" if machine["multiplies_bf16"] else "without"
    lines = [
        f"{where}, {bf16} bf16 instructions; {machine['precision']}, torch {machine['torch']}",
        data,
        "",
        _COLUMNS.format("stage", "seglab", "reference", "unit", "ratio", "target", "").rstrip(),
    ]
    return "\n".join(lines)


def describe(row: Row) -> str:
    """Two lines or more: the figures, and what they mean."""
    stage, measured = row.stage, row.measured
    verdict = {True: "ok", False: "short", None: ""}[row.met]
    cells = _COLUMNS.format(
        stage.name,
        figure(measured.ours) if measured else "skipped",
        figure(measured.reference) if measured else "",
        stage.unit,
        "" if measured is None or measured.ratio is None else f"{measured.ratio:.3g}×",
        str(stage.goal or ""),
        verdict,
    )
    notes = [stage.meaning, row.note]
    text = ". ".join(note for note in notes if note)
    wrapped = textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{cells.rstrip()}\n{wrapped}"


def summary(rows: Sequence[Row], seconds: float) -> str:
    """The last line: how many targets are met, which are not, and what it took."""
    judged = [row for row in rows if row.met is not None]
    short = [row.stage.name for row in judged if not row.met]
    skipped = [row.stage.name for row in rows if row.measured is None]
    parts = [f"{len(judged) - len(short)} of {len(judged)} targets met"]
    parts += [f"short: {', '.join(short)}"] if short else []
    parts += [f"skipped: {', '.join(skipped)}"] if skipped else []
    return f"{'; '.join(parts)}; measured in {seconds / 60:.1f} minutes"


def figure(value: float | None) -> str:
    """Three digits that count, thousands apart."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
