"""From a parent run to a folder with its report, logged with the run."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seglab.core.documents import json_text
from seglab.core.errors import UserError, as_warning
from seglab.studies.comparison import ComparedAblation, compare_ablation
from seglab.studies.report.document import Document, Notice, Picture
from seglab.studies.report.html import render_html
from seglab.studies.report.markdown import FIGURES, plain_table, render_markdown
from seglab.studies.report.pictures import comparison_pictures
from seglab.studies.report.sections import build_document, lead
from seglab.studies.report.tables import verdict_table
from seglab.studies.results import collect
from seglab.tracking import RunInfo, RunLog, Store

MAX_NOTE = 4500
"""Characters; MLflow takes 5000 in a tag on every store."""


@dataclass(frozen=True)
class Written:
    """A report on disk."""

    folder: Path
    text: str
    """What a terminal shows of it."""
    result: ComparedAblation


def report_ablation(
    store: Store,
    parent: RunInfo,
    *,
    baseline: str | None = None,
    out: Path | None = None,
    log: RunLog | None = None,
) -> Written:
    """Compare the arms under ``parent`` and write the report.

    Args:
        store: where the runs are.
        parent: of the ablation.
        baseline: another arm than the experiment's to compare with.
        out: folder to write to; None takes one beside the store's database.
        log: the open parent run; the report becomes its artifact. None logs nothing.

    Raises:
        UserError: see :func:`collect` and :func:`compare_ablation`.
    """
    result = compare_ablation(collect(store, parent), baseline)
    pictures, missing = _pictures(result, store)
    document = build_document(result, pictures)
    if missing:
        notice = Notice(f"No predictions are drawn: {missing}.")
        document = Document(
            document.title, [*document.blocks, notice], document.sections, document.footer
        )
    folder = out or store.folder / "reports" / f"{result.ablation.experiment}-{parent.run_id[:8]}"
    write_folder(folder, document, result)
    if log is not None:
        log.artifact(folder, "report")
        log.metrics(summary_metrics(result), step=_runs(result))
        log.tags({"mlflow.note.content": note(result), "seglab.verdicts": dict(result.verdicts)})
    return Written(folder, terminal_text(result), result)


def _pictures(result: ComparedAblation, store: Store) -> tuple[list[Picture], str | None]:
    from seglab.studies.report.sheet import sheet_picture

    pictures: list[Picture] = []
    with as_warning("the report has no figures"):
        pictures = comparison_pictures(result, store)
    try:
        return [*pictures, sheet_picture(result, store)], None
    except UserError as error:
        return pictures, str(error)


def write_folder(folder: Path, document: Document, result: ComparedAblation) -> None:
    """Write ``report.html``, ``report.md`` with its figures, and the numbers.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        (folder / "report.html").write_text(render_html(document), encoding="utf-8")
        (folder / "report.md").write_text(render_markdown(document), encoding="utf-8")
        for picture in document.pictures:
            (folder / FIGURES / f"{picture.name}.png").write_bytes(picture.png)
        numbers = json_text(all_numbers(result))
        (folder / "comparison.json").write_text(f"{numbers}\n", encoding="utf-8")
        _write_csv(folder / "comparison.csv", result.to_json()["arms"])
        _write_csv(folder / "patients.csv", patient_rows(result))
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error}") from error


def all_numbers(result: ComparedAblation) -> dict[str, Any]:
    """Everything the report shows, and the figures behind it."""
    return result.to_json() | {
        "margin": result.comparison.margin,
        "confidence": result.comparison.confidence,
        "resamples": result.comparison.resamples,
        "sd_run": result.comparison.sd_run,
        "budget": {"unit": result.budgets.unit, "arms": [asdict(a) for a in result.budgets.arms]},
        "costs": result.costs,
        "other_scores": result.other_scores,
        "strata": [
            {
                "name": stratum.name,
                "rule": stratum.rule,
                "n_patients": stratum.comparison.n_patients,
                "baseline": vars(stratum.comparison.baseline),
                "arms": [vars(row) for row in stratum.comparison.rows],
            }
            for stratum in result.strata
        ],
        "left_out": list(result.comparison.left_out),
    }


def patient_rows(result: ComparedAblation) -> list[dict[str, Any]]:
    """A row a patient, arm and seed."""
    return [
        {"arm": arm.name, "seed": seed, **asdict(score)}
        for arm in result.ablation.arms
        for seed in arm.seeds
        for score in arm.scores(seed)
    ]


def summary_metrics(result: ComparedAblation) -> dict[str, float]:
    """What the parent shows of its children in the table of runs."""
    decided = sum(word in ("better", "worse", "equivalent") for word in result.verdicts.values())
    return {
        "val/dice": max(row.mean for row in (result.comparison.baseline, *result.rows)),
        "ablation/largest_difference": max((row.diff for row in result.rows), default=math.nan),
        "ablation/arms": float(len(result.ablation.arms)),
        "ablation/arms_decided": float(decided),
        "ablation/patients": float(result.comparison.n_patients),
    }


def note(result: ComparedAblation) -> str:
    """The answer in Markdown, as the MLflow UI shows it with the parent run."""
    head = Document(result.ablation.experiment, lead(result), [], "report/report.html has it all")
    text = render_markdown(head)
    return text if len(text) <= MAX_NOTE else f"{text[:MAX_NOTE]} …"


def terminal_text(result: ComparedAblation) -> str:
    """The verdicts as a table, after what must be known before them."""
    refusal = result.budgets.refusal()
    warnings = [*([refusal] if refusal else []), *result.warnings]
    lines = [f"warning: {' '.join(warning.split())}" for warning in warnings]
    return "\n".join([*lines, plain_table(verdict_table(result))])


def _runs(result: ComparedAblation) -> int:
    return sum(len(arm.children) for arm in result.ablation.arms)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
