"""One page of a whole study, from what its runs logged; nothing is trained, no data is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seglab.core.errors import UserError
from seglab.studies.comparison import ComparedAblation
from seglab.studies.report import tables
from seglab.studies.report.document import Block, Bullets, Document, Section
from seglab.studies.report.html import render_html
from seglab.studies.report.markdown import FIGURES, render_markdown
from seglab.studies.report.record import StudyRecord, read_record
from seglab.studies.report.sections import METHOD, sentence
from seglab.studies.report.study_arms import arms_section, compared, search_section
from seglab.studies.report.study_failures import failures_section
from seglab.studies.report.study_promotion import (
    promoted_section,
    sealed_section,
    sealed_sentence,
)
from seglab.studies.report.study_setting import (
    cost_table,
    data_section,
    environment_section,
    split_section,
)
from seglab.tracking import Store

FIGURES_MEAN = (
    "dice, iou, precision, recall: of a patient over all of its slices, on the scanner's own grid, "
    "averaged over patients; a patient without tumour has none and is counted apart.",
    "dice_slice_tumour: mean over slices with tumour. dice_pooled: one Dice over all pixels, so "
    "that large tumours weigh most. dice_slice_empty1: mean over all slices, an empty one left "
    "empty counts as 1; inflated, for comparison with literature alone.",
    "empty_slice_fp_rate: share of slices without tumour in which some is predicted.",
    "hd95_mm: 95th percentile of the distance between the surfaces. nsd_2mm: share of the surface "
    "within 2 mm. Both where the spacing is known; a missed tumour counts as the diagonal of the "
    "volume and as 0.",
)
NOT_A_DEVICE = (
    "A mask is research output, not a medical device: it must not guide anybody's treatment."
)


@dataclass(frozen=True)
class WrittenStudy:
    """The page of a study on disk."""

    experiment: str
    html: Path
    markdown: Path
    sections: Sequence[str]


def report_study(store: Store, experiment: str, out: Path | None = None) -> WrittenStudy:
    """Write ``study.html``, ``study.md`` and its figures.

    Args:
        store: where the runs are; nothing in it changes.
        experiment: its name.
        out: folder to write to; None takes ``reports/EXPERIMENT`` beside the store's database.

    Raises:
        UserError: no such experiment, nothing ran in it, or the folder cannot be written.
    """
    document = study_document(read_record(store, experiment))
    folder = out or store.folder / "reports" / _folder_name(experiment)
    html, markdown = folder / "study.html", folder / "study.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in document.pictures:
            (folder / FIGURES).mkdir(exist_ok=True)
            (folder / FIGURES / f"{picture.name}.png").write_bytes(picture.png)
        html.write_text(render_html(document), encoding="utf-8")
        markdown.write_text(render_markdown(document), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error}") from error
    return WrittenStudy(
        experiment, html, markdown, [section.title for section in document.sections]
    )


def study_document(record: StudyRecord) -> Document:
    """Lay out everything; a section without content says so."""
    result = compared(record)
    sections = [
        data_section(record),
        split_section(record),
        arms_section(record, result),
        search_section(record),
        promoted_section(record),
        sealed_section(record),
        failures_section(record),
        _cost_section(record, result),
        environment_section(record),
        Section("How to read this", [Bullets([*FIGURES_MEAN, *METHOD, NOT_A_DEVICE])]),
    ]
    ids = ", ".join(run.run_id for run in record.of_kind("ablation", "sweep", "promotion"))
    footer = f"{len(record.runs)} runs of experiment {record.experiment}. Parents: {ids or 'none'}."
    lead: list[Block] = [Bullets(_lead(record, result))]
    return Document(f"{record.experiment}: the study", lead, sections, footer)


def _lead(record: StudyRecord, result: ComparedAblation | str | None) -> list[str]:
    """What somebody learns who reads no further."""
    kinds = Counter(run.tags.get("seglab.kind", "other") for run in record.runs)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    lines = [f"{len(record.runs)} runs: {counted}."]
    if isinstance(result, ComparedAblation):
        lines += [sentence(result, row) for row in result.rows]
    if record.best is not None:
        dice = tables.number(record.best.metrics["val/dice"])
        lines.append(f"Best on validation: {record.best.name}, Dice {dice}.")
    return [*lines, sealed_sentence(record)]


def _cost_section(record: StudyRecord, result: ComparedAblation | str | None) -> Section:
    by_arm = [tables.cost_table(result)] if isinstance(result, ComparedAblation) else []
    return Section("Cost", [cost_table(record), *by_arm])


def _folder_name(experiment: str) -> str:
    """The experiment's name, unless it would lead out of the folder."""
    return re.sub(r"[^\w .-]+", "_", experiment).strip(". ") or "experiment"
