"""Which patients went wrong and why, as a run's gallery explains them; which runs went wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from seglab.studies.report.document import Block, Bullets, Cell, Section, Table, Text
from seglab.studies.report.record import StudyRecord
from seglab.studies.report.tables import number
from seglab.tracking import RunInfo
from seglab.tracking.tags import PRUNED

GALLERY = "gallery/index.html"
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
MOST_CASES = 5
MOST_RUNS = 20
WORDS = {"FAILED": "failed", "KILLED": "stopped", "RUNNING": "running"}


def failures_section(record: StudyRecord) -> Section:
    """Causes, the worst cases in words, and the runs that did not finish."""
    return Section("Failures", [*_patients(record), *_unfinished(record)])


def _patients(record: StudyRecord) -> list[Block]:
    run, whose = record.promotion, "test patients of the promoted model"
    if run is None:
        run, whose = record.best, "validation patients of the best run"
    if run is None:
        return [Text("No run has finished: there are no predictions to explain.")]
    content = gallery_data(record.read(run, GALLERY))
    if content is None:
        return [Text(f"Run {run.name} ({run.run_id}) logged no gallery of its patients.")]
    blocks: list[Block] = [Text(_opening(content, whose, run))]
    if content["causes"]:
        blocks.append(_causes(content["causes"]))
    worst = content["cases"][:MOST_CASES]
    if worst:
        blocks += [Text("The cases of lowest Dice:"), Bullets([case["text"] for case in worst])]
    caption = "Worst cases: agreement, missed and false areas as the legend says."
    return blocks + record.picture(run, "overlays/worst.png", "worst", caption)


def gallery_data(page: bytes | None) -> dict[str, Any] | None:
    """Read the figures inside a gallery's page; None where there are none."""
    found = DATA.search(page.decode("utf-8", errors="replace")) if page else None
    try:
        content = json.loads(found.group(1)) if found else None
    except ValueError:
        return None
    known = isinstance(content, dict) and {"causes", "cases", "patients"} <= content.keys()
    return content if known else None


def _opening(content: Mapping[str, Any], whose: str, run: RunInfo) -> str:
    wrong = "" if content["causes"] else " Nothing is wrong in any of them."
    return (
        f"{content['patients']} {whose}, mean Dice {number(content.get('meanDice'))}."
        f"{wrong} Every slice can be leafed through in {GALLERY} of run {run.run_id}."
    )


def _causes(causes: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            cause["name"],
            "–" if cause["share"] is None else f"{cause['share']:.0%}",
            str(cause["patients"]),
            str(cause["findings"]),
        ]
        for cause in causes
    ]
    return Table(
        ("cause", "share of the lost Dice", "patients it comes first for", "regions"),
        rows,
        "Causes are chosen by rule from what was measured; the gallery states each rule.",
    )


def _unfinished(record: StudyRecord) -> list[Block]:
    runs = [run for run in record.runs if _went_wrong(run)]
    if not runs:
        return [Text("Every run of this experiment finished or was pruned.")]
    rows: list[Sequence[str | Cell]] = [
        [run.name, run.run_id[:8], Cell(_word(run), _word(run)), _reason(run)]
        for run in runs[:MOST_RUNS]
    ]
    rest = len(runs) - len(rows)
    note = f"And {rest} more." if rest else ""
    return [Table(("unfinished run", "id", "status", "reason"), rows, note, text_columns=4)]


def _went_wrong(run: RunInfo) -> bool:
    return run.status != "FINISHED" and PRUNED not in run.tags


def _word(run: RunInfo) -> str:
    return WORDS.get(run.status, run.status.lower())


def _reason(run: RunInfo) -> str:
    return run.tags.get("seglab.error") or run.tags.get("seglab.interrupted") or "–"
