"""Overlays and the gallery of failures of some patients, whoever predicted them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seglab.core.documents import json_text
from seglab.core.errors import as_warning
from seglab.core.progress import progress
from seglab.evaluation.case import Case, best_median_worst
from seglab.evaluation.failures.explain import RULES, Explanation, explain
from seglab.evaluation.failures.selection import FailureAnalysis, analyse
from seglab.evaluation.failures.text import paragraph
from seglab.evaluation.metrics import PatientScore
from seglab.figures.gallery import write_gallery
from seglab.figures.overlays import overlay_sheet
from seglab.figures.pixels import write_png

KEPT = 8
"""Cases held in memory; one takes 36 MB for a BraTS volume."""


class CaseBook:
    """The cases of some patients: the last few are kept, others are predicted again when wanted.

    A validation part of 55 BraTS volumes would not fit the memory of a laptop.
    """

    def __init__(self, names: Sequence[str], build: Callable[[str], Case]) -> None:
        self.names = tuple(names)
        self._build = build
        self._kept: OrderedDict[str, Case] = OrderedDict()

    def __getitem__(self, name: str) -> Case:
        if name in self._kept:
            self._kept.move_to_end(name)
        else:
            self._kept[name] = self._build(name)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[name]

    def __iter__(self) -> Iterator[Case]:
        return (self[name] for name in self.names)


def explain_all(cases: CaseBook) -> list[Explanation]:
    """Score and explain every patient."""
    shown = progress(cases, "judging", total=len(cases.names), unit="patient")
    return [explain(case) for case in shown]


def write_overlays(
    folder: Path, cases: CaseBook, scores: Sequence[PatientScore], count: int
) -> None:
    """Draw up to ``count`` of the best, median and worst patients, a sheet each."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = best_median_worst(scores, min(count, fair_share(len(scores))))
    for label, names in chosen.items():
        if names:
            title = f"{label} of {len(scores)} patients"
            sheet = overlay_sheet([cases[name] for name in names], title, [label] * len(names))
            write_png(folder / f"{label}.png", sheet)


def fair_share(patients: int) -> int:
    """Patients a sheet, so that of three and more each sheet has somebody to show."""
    return min(-(-patients // 3), max(1, (patients - 1) // 2))


def write_pictures(
    folder: Path, cases: CaseBook, explanations: Sequence[Explanation], *, title: str, overlays: int
) -> None:
    """Write ``overlays/*.png``, ``failures.json`` and ``gallery/index.html`` into ``folder``.

    What cannot be written is a warning.
    """
    scores = [explanation.score for explanation in explanations]
    analysis = analyse(explanations)
    with as_warning("failures.json is not written"):
        text = json_text(failures(analysis))
        (folder / "failures.json").write_text(f"{text}\n", encoding="utf-8")
    with as_warning("overlays are not drawn"):
        write_overlays(folder / "overlays", cases, scores, overlays)
    with as_warning("the gallery is not written"):
        write_gallery(folder / "gallery" / "index.html", cases, analysis, title=title)


def failures(analysis: FailureAnalysis) -> dict[str, Any]:
    """What the gallery says in words and figures, as ``failures.json`` holds it.

    Cases are ordered by their Dice, lowest first. Without a Dice or a share of one: None.
    """
    explanations = list(analysis.explanations.values())
    dice = [one.score.dice for one in explanations if not math.isnan(one.score.dice)]
    causes = [{**vars(cost), "rule": RULES[cost.cause]} for cost in analysis.costs]
    cases = [
        {
            "patient_id": one.patient_id,
            "dice": one.score.dice,
            "cause": one.cause,
            "causes": dict(one.shares),
            "rules": analysis.rules_of(one.patient_id),
            "text": paragraph(one),
        }
        for one in explanations
    ]
    mean = sum(dice) / len(dice) if dice else None
    return {"patients": len(cases), "mean_dice": mean, "causes": causes, "cases": cases}
