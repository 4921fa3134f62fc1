"""What the sealed test and evaluations on other data came to, in words and rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from seglab.evaluation.scores import FEWEST_WITH_INTERVAL, student_quantile
from seglab.studies.candidates import baseline_tags
from seglab.studies.report.record import Record, frozen_model
from seglab.studies.report.tables import NONE, by_cause, counted, interval, number
from seglab.tracking import tags
from seglab.tracking.openings import openings, seen_text
from seglab.tracking.store import RunInfo, Store

EXTERNAL_FILE = "external_results.json"
WIDE = 1.5
"""Times Student's interval beyond which the width of the bootstrap's is explained."""
EXTERNAL = ("iou", "lesions_found", "lesions_missed", "lesions_false")


def test_sentence(run: RunInfo | None) -> str:
    """The result of the sealed test in one sentence."""
    if run is None:
        return "Not tested yet: only a promotion opens the sealed test, and none has finished."
    firm = "confirmatory" if run.tags.get(tags.CONFIRMATORY) == "true" else "not confirmatory"
    return f"Sealed test{_of_ensemble(run)}, {firm}: {_dice_of(run, 'test')}."


def _of_ensemble(run: RunInfo) -> str:
    """Name the ensemble that a promotion or an evaluation is of; empty where it is of one run."""
    members = run.tags.get(tags.ENSEMBLE, "")
    count = f" of {members.count(',') + 1} runs" if "," in members else ""  # files do not tell it
    return f" of an ensemble{count}" if members else ""


def rival(run: RunInfo) -> str:
    """What a promoted model was compared with on the test patients."""
    known = run.tags.get(tags.BASELINE_RUN, "")
    own = known == run.tags.get(tags.PROMOTED_RUN)
    return f"{'the best single run of the ensemble' if own else 'the baseline'} {known[:8]}".strip()


def why_no_rival(record: Record) -> str:
    """Why the promoted model was compared with no other on the test patients."""
    run = record.reference
    if run is None or not (wanted := baseline_tags(record.store, run)):
        return "it was trained in no ablation and no search, so that it has no baseline"
    if wanted.items() <= run.tags.items():
        return "it is the baseline itself"
    return "no finished run of the baseline has its fold and target"


def wide_interval(run: RunInfo, dice: Mapping[str, Any]) -> str:
    """Say so where the interval of a test's Dice is much wider than its spread alone would make it.

    ``dice`` is a figure of ``test_results.json``.
    """
    count, sd = dice["patients"], run.metrics.get("test/dice_sd")
    if count < FEWEST_WITH_INTERVAL or dice["low"] is None or not sd:
        return ""
    half = max(dice["value"] - dice["low"], dice["high"] - dice["value"])
    times = half / (student_quantile(count) * sd / math.sqrt(count))
    if times < WIDE:
        return ""
    return (
        f"The interval is {times:.1f} times as wide as Student's t gives: a few patients are far "
        "from the others, and how many such patients there are elsewhere is not known."
    )


def not_confirmatory(store: Store, run: RunInfo) -> str:
    """Say by which earlier promotions the test of ``run`` confirms nothing; empty where it does."""
    if run.tags.get(tags.CONFIRMATORY) == "true":
        return ""
    found = openings(store)
    own = next((one for one in found if one.opened_by == run.run_id), None)
    told = ""
    if own is not None:
        told = seen_text(store, [one for one in found if one.opened_at <= own.opened_at], own)
    told = told or "patients of this test were tested before"
    return f"Not confirmatory: {told}. Choices may have been made with them in view."


def external_sentence(run: RunInfo) -> str:
    """The result of an evaluation on another data set in one sentence."""
    place = run.params.get("evaluation.set", "another data set")
    model = f",{of}" if (of := _of_ensemble(run)) else ""
    return f"On {place}, where nothing was tuned: {_dice_of(run, 'external')}{model}."


def external_rows(record: Record) -> list[tuple[str, ...]]:
    """Evaluations on other data sets, newest first, beside the same model's own test."""
    tested = {frozen_model(run): run for run in record.of_kind("promotion")[::-1]}
    rows = []
    for run in record.evaluations:
        model, promotion = run.tags.get(tags.EVALUATED_RUN, NONE), tested.get(frozen_model(run))
        own = _dice_of(promotion, "test") if promotion else NONE
        figures = [number(run.metrics.get(f"external/{name}")) for name in EXTERNAL]
        place = run.params.get("evaluation.set", NONE)
        more = " and others, an ensemble" if tags.ENSEMBLE in run.tags else ""
        rows.append((place, f"{model[:8]}{more}", _dice_of(run, "external"), *figures, own))
    return rows


def external_warnings(warnings: Sequence[str], count: int) -> list[str]:
    """What an evaluation warned of, each cause once with the number of its patients."""
    split = [text.partition(": ") for text in warnings]
    of_patients = [(who, text) for who, _, text in split if " " not in who]
    lines = [f"warning: {''.join(parts)}" for parts in split if " " in parts[0]]
    return [*lines, *by_cause(of_patients, count, EXTERNAL_FILE)]


def external_notes(record: Record) -> list[str]:
    """Of each other data set, what the evaluations there warned of."""
    lines = []
    for run in record.evaluations:
        if found := record.read_json(run, EXTERNAL_FILE):
            told = external_warnings(found["warnings"], found["patients"])
            lines += [f"{found['set']}: {text.replace('warning: ', '', 1)}" for text in told]
    return list(dict.fromkeys(lines))


def _dice_of(run: RunInfo, part: str) -> str:
    """Dice with its interval and the number of patients of one part."""
    low, high = (run.metrics.get(f"{part}/dice_ci_{end}") for end in ("low", "high"))
    limits, count = interval(low, high), run.metrics.get(f"{part}/patients") or 0
    few = limits == NONE or count < FEWEST_WITH_INTERVAL
    limits = "too few for an interval" if few else f"95 % interval {limits}"
    dice = number(run.metrics.get(f"{part}/dice"))
    return f"Dice {dice} over {counted(int(count), 'patient')} ({limits})"
