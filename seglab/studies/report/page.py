"""Writing the report of an experiment, and logging that of an ablation with its parent run."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import seglab
from seglab.core import registry
from seglab.core.documents import fill_template, json_text
from seglab.core.errors import UserError, as_warning
from seglab.core.machine import tell
from seglab.evaluation import scores
from seglab.figures.style import marked
from seglab.studies.comparison import ComparedAblation
from seglab.studies.report import outcomes, sections, tables
from seglab.studies.report.figures import comparison_figures, draw_sheet
from seglab.studies.report.record import Record, read_record
from seglab.tracking import tags
from seglab.tracking.run import RunLog
from seglab.tracking.store import RunInfo, Store, artifact_link

SECTIONS = (
    *("Result", "Method", "Predictions", "Failures", "Comparison", "Search", "Promotion"),
    *("Test in detail", "Limits", "Record", "Terms", "References"),
)
LOCAL_UI = "http://127.0.0.1:5000"
"""Where `seglab ui` serves a store that is a file."""
MAX_NOTE = 4500
"""Characters; MLflow takes 5000 in a tag on every store."""
SHEET = "report/figures/sheet.png"
"""Artifact of an ablation's parent: the same patients under every arm."""
PRINT = "document.getElementById('print').onclick = () => print();"
"""The one script of the page; its hash is all that the page's policy lets run."""
FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": tables.number,
    "p_value": tables.p_value,
    "interval": tables.interval,
    "level": tables.level,
    "short": tables.short,
    "duration": tables.duration,
    "figure": sections.figure,
    "from_json": json.loads,
    "data_uri": lambda png: f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}",
    "pixels_wide": lambda png: int.from_bytes(png[16:20], "big"),  # from the header of a PNG
    "time": lambda seconds: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds)),
}


def report_experiment(
    store: Store,
    experiment: str,
    result: ComparedAblation | None = None,
    out: Path | None = None,
    *,
    ending: str = "",
    author: str = "",
) -> Path:
    """Write ``report.html`` of everything that ran under an experiment's name; the store stays.

    Beside it are the figures and numbers of the comparison. Without ``result``, the arms to show,
    it has those of the newest ablation that can be compared, and the gallery of failures lies
    beside it; without ``out`` it is in a folder beside the store's database. The run ``ending``,
    which logs the report at its end, is shown as finished.

    Raises:
        UserError: no such experiment, nothing ran in it, or the folder cannot be written.
    """
    record, folder = read_record(store, experiment, ending), report_folder(store, experiment)
    reason, gallery, arms_only = "", None, result is not None
    if result is None:
        found = [sections.compare(store, parent.run_id) for parent in record.ablations]
        result = next((one for one in found if isinstance(one, ComparedAblation)), None)
        reason = next((one for one in found if isinstance(one, str)), "")
        told = record.promotion or record.best
        gallery = record.read(told, "gallery/index.html") if told else None
    else:
        name = f"{folder.name}-{result.ablation.parent.run_id[:8]}"
        if result.baseline != result.ablation.baseline:  # the experiment's own page stays
            name += f"-{_file_name(result.baseline)}"
        folder = folder.with_name(name)
    folder = out or folder
    shown = result.as_shown() if result else None
    tell(f"writing the report of '{record.experiment}'")
    pictures = comparison_figures(shown, store) if shown else {}
    more = {"gallery": gallery is not None, "arms_only": arms_only}
    text = render(record, shown, pictures, reason, author=author, **more)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        (folder / "report.html").write_text(text, encoding="utf-8")
        if gallery is not None:
            (folder / "gallery.html").write_bytes(gallery)
        for figure, png in pictures.items():
            (folder / "figures" / f"{figure}.png").write_bytes(png)
        if result is not None:
            numbers = result.to_json()
            (folder / "comparison.json").write_text(f"{json_text(numbers)}\n", encoding="utf-8")
            pd.DataFrame(numbers["arms"]).to_csv(folder / "comparison.csv", index=False)
            tables.patient_table(result).to_csv(folder / "patients.csv", index=False)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error}") from error
    return folder / "report.html"


def log_ablation_report(log: RunLog, result: ComparedAblation) -> Path:
    """Write the report at the end of an ablation, and log it with its parent run."""
    store = log.store
    with as_warning("no predictions are drawn"):
        log.figure(marked(draw_sheet(result, store), result.ablation.notice), SHEET)
    page = report_experiment(store, result.ablation.experiment, result, ending=log.run_id)
    log.artifact(page.parent, "report")
    runs = sum(len(arm.runs) for arm in result.ablation.arms)
    log.metrics(summary_metrics(result), step=runs)
    log.tags({tags.NOTE: note(result), tags.VERDICTS: dict(result.verdicts)})
    shown = result.as_shown()
    for arm in shown.ablation.arms:
        row = next((row for row in shown.rows if row.arm == arm.name), None)
        verdict = sections.sentence(shown, row) if row else "The baseline of the comparison."
        verdict = verdict.partition(";")[0]  # the rest is in the parent's note
        for one in arm.runs:
            own = one.run.tags.get(tags.NOTE, "").rpartition("\n\n")[2]  # its link
            parts = escape_markdown(verdict), _link(shown.ablation.parent), own
            store.set_tag(one.run.run_id, tags.NOTE, "\n\n".join(parts))
    return page


def log_report(log: RunLog, experiment: str, *answers: str | None) -> None:
    """Log the report of an experiment with a run that ends next, and answers as its note."""
    link = _link(log.store.get_run(log.run_id))
    log.tags({tags.NOTE: "\n\n".join([*map(escape_markdown, filter(None, answers)), link])})
    with as_warning("no report is logged"):
        log.artifact(report_experiment(log.store, experiment, ending=log.run_id), "report")


def render(
    record: Record,
    result: ComparedAblation | None,
    pictures: Mapping[str, bytes],
    reason: str,
    *,
    gallery: bool = False,
    arms_only: bool = False,
    author: str = "",
) -> str:
    """Render the page, which loads nothing from anywhere.

    ``pictures`` are PNG by name. ``reason`` says why an ablation has no arms to show, ``gallery``
    whether gallery.html lies beside the page, ``arms_only`` that another page has all there is.
    """
    served = record.store.uri if record.store.uri.startswith("http") else LOCAL_UI
    digest = base64.b64encode(hashlib.sha256(PRINT.encode()).digest()).decode("ascii")
    return fill_template(
        "seglab.studies.report",
        "report.html",
        FILTERS,
        record=record,
        result=result,
        pictures=pictures,
        reason=reason,
        gallery=gallery,
        arms_only=arms_only,
        author=author,
        title=f"{record.experiment}: {'comparison of arms' if arms_only else 'report'}",
        titles=[title for title in SECTIONS if title != "Search" or record.sweep],
        sheet=SHEET,
        registry=registry,
        version=seglab.__version__,
        served=served.rstrip("/"),
        print_script=PRINT,
        print_hash=f"sha256-{digest}",
        outcomes=outcomes,
        sections=sections,
        tables=tables,
        scores=scores,
        tags=tags,
    )


def summary_metrics(result: ComparedAblation) -> dict[str, float]:
    """What the parent run shows in the table of runs."""
    decided = sum(word in ("better", "worse", "equivalent") for word in result.verdicts.values())
    differences = [row.diff for row in result.rows]
    return {
        "val/dice": max(row.mean for row in (result.comparison.baseline, *result.rows)),
        "ablation/largest_difference": max(differences, key=abs, default=math.nan),
        "ablation/arms": float(len(result.ablation.arms)),
        "ablation/arms_decided": float(decided),
        "ablation/patients": float(result.comparison.n_patients),
    }


def note(result: ComparedAblation) -> str:
    """The answer in Markdown; its first line is plain, for the table of runs."""
    shown = result.as_shown()
    is_confirmation = tags.CONFIRMS in shown.ablation.parent.tags
    told = [
        f"{row.arm} {shown.verdicts[row.arm]} ({tables.number(row.diff, '+.3f')})"
        for row in shown.rows
    ]
    first = textwrap.shorten(f"Against {shown.baseline}: {', '.join(told)}.", 90, placeholder=" …")
    parts = [
        escape_markdown(first) * bool(shown.rows),
        "\n".join(f"- {escape_markdown(sections.sentence(shown, row))}" for row in shown.rows),
        "Confirms the best trials of a search against its base config." * is_confirmation,
        shown.ablation.notice,
        escape_markdown(sections.scope(shown)),
        *(f"> **Note:** {escape_markdown(text)}" for text in sections.notices(shown)),
        _link(shown.ablation.parent),
    ]
    text = "\n\n".join(filter(None, parts))
    return text if len(text) <= MAX_NOTE else f"{text[:MAX_NOTE]} …"


def _link(run: RunInfo) -> str:
    return f"[The report]({artifact_link(run, 'report/report.html')})"


def escape_markdown(text: str) -> str:
    """Escape what Markdown or the HTML inside it would read as markup; one line."""
    marks = r"([\\`*\[\]|#~$]|(?<!\w)_|_(?!\w))"  # an underscore inside a word is none
    escaped = re.sub(marks, r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def report_folder(store: Store, experiment: str) -> Path:
    """Where the page of a whole experiment is written."""
    return store.folder / "reports" / _file_name(experiment)


def _file_name(name: str) -> str:
    """The name, unless it would lead out of the folder."""
    return re.sub(r"[^\w .-]+", "_", name).strip(". ") or "experiment"
