"""The promoted model and what the sealed test said, as the promotion logged it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from seglab.evaluation.scores import CAVEAT, IMPLAUSIBLE_DICE, PUBLISHED, Interval
from seglab.studies.promotion_outputs import NOT_CONFIRMATORY, interval_text
from seglab.studies.report.document import Block, Cell, Notice, Section, Table, Text
from seglab.studies.report.record import StudyRecord
from seglab.studies.report.study_setting import facts
from seglab.studies.report.tables import interval, number, p_value
from seglab.tracking import RunInfo
from seglab.tracking.tags import BASELINE_RUN, ONNX, PROMOTED_RUN

NOT_PROMOTED = "Not promoted yet: no model of this experiment was frozen and registered."
NOT_OPENED = "Not tested yet: only a promotion opens the sealed test, and none came to its end."
MOST_CANDIDATES = 10
OPENINGS = ("promotion", "when", "status", "confirmatory", "reason to open again", "test Dice")
PICTURES = {
    "patients": "Every test patient.",
    "calibration": "How often pixels of a predicted probability are tumour: on the diagonal, the "
    "network's probabilities can be taken at their word.",
    "slice_position": "Dice of single slices by their place in the stack.",
}
SETTINGS = (
    ("threshold", "threshold"),
    ("smallest_component_px", "smallest component kept, px"),
    ("fill_holes", "holes filled"),
    ("mirror", "averaged with the mirrored image"),
)


def promoted_section(record: StudyRecord) -> Section:
    """Which run was chosen, why, among which others, and what was frozen."""
    run = record.promotion
    if run is None:
        return Section("Promoted model", [Text(NOT_PROMOTED), *_openings(record)])
    candidates = record.read_json(run, "candidates.json") or {}
    reason = candidates.get("why") or run.tags.get("mlflow.note.content", "not logged")
    rows = [
        ("chosen because", str(reason)),
        ("run", run.tags.get(PROMOTED_RUN, "")),
        ("its commit", run.tags.get("seglab.promoted_git_commit", "")),
        ("model", run.params.get("model.name", "")),
        ("promotion run", run.run_id),
        ("ONNX file", run.tags.get(ONNX, "none")),
        *_frozen(run),
    ]
    blocks: list[Block] = [facts(rows, "Everything here was fixed on validation patients.")]
    if candidates.get("candidates"):
        blocks.append(_candidates(candidates))
    return Section("Promoted model", blocks)


def _frozen(run: RunInfo) -> list[tuple[str, str]]:
    point = json.loads(run.tags.get("seglab.operating_point", "{}"))
    words = {True: "yes", False: "no"}
    return [
        (label, words[point[key]] if isinstance(point[key], bool) else f"{point[key]:g}")
        for key, label in SETTINGS
        if key in point
    ]


def _candidates(content: Mapping[str, Any]) -> Table:
    every = content["candidates"]
    folded = any(one.get("out_of_fold") is not None for one in every)
    keys = ["val/dice", "val/dice_sd", "val/iou", *(["out_of_fold"] if folded else [])]
    rows = [
        [
            one["name"],
            one["run_id"][:8],
            *(number(one.get(key), 4) for key in keys),
        ]
        for one in every[:MOST_CANDIDATES]
    ]
    rest, unfinished = len(every) - len(rows), content.get("unfinished", 0)
    note = f"Best first{f'; {rest} more' if rest else ''}. Runs that did not finish: "
    names = ("candidate", "run", "val Dice", "SD patients", "val IoU")
    header = (*names, *(["Dice out of fold"] if folded else []))
    return Table(header, rows, f"{note}{unfinished}.", text_columns=2)


def sealed_section(record: StudyRecord) -> Section:
    """Figures of the sealed test with intervals, beside the baseline and published ones."""
    run = record.promotion
    if run is None:
        return Section("Test", [Text(NOT_OPENED)])
    results = record.read_json(run, "test_results.json")
    if results is None:
        return Section("Test", [Notice(f"Promotion {run.run_id} logged no results.")])
    frozen, plain = _figures(results["frozen"]), _figures(results["plain"])
    blocks = [*_standing(results, frozen["dice"]), _figure_table(frozen, plain)]
    blocks += _baseline(run, results)
    blocks.append(_strata(results))
    for name, caption in PICTURES.items():
        blocks += record.picture(run, f"figures/{name}.png", f"test-{name}", caption)
    blocks += [_published(frozen["dice"]), Text(CAVEAT), *_openings(record)]
    return Section("Test", blocks)


def sealed_sentence(record: StudyRecord) -> str:
    """The sealed test in one sentence."""
    run = record.promotion
    if run is None:
        return NOT_OPENED
    low, high = (_known(run.metrics.get(f"test/dice_ci_{end}")) for end in ("low", "high"))
    limits = "no interval" if math.isnan(low) else f"95 % interval {interval(low, high)}"
    count = run.metrics.get("test/patients")
    firmness = "confirmatory" if run.tags.get("seglab.confirmatory") == "true" else "not confirming"
    return (
        f"Sealed test, {firmness}: Dice {number(run.metrics.get('test/dice'))} "
        f"({limits}) over {number(count, 0)} patient{'' if count == 1 else 's'}."
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _figures(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Interval]:
    return {name: _interval(figure) for name, figure in content.items()}


def _interval(figure: Mapping[str, Any]) -> Interval:
    value, low, high = (_known(figure[key]) for key in ("value", "low", "high"))
    return Interval(value, low, high, figure["patients"])


def _standing(results: Mapping[str, Any], dice: Interval) -> list[Block]:
    """What must be known before the figures."""
    before = results["openings_before"]
    blocks: list[Block] = []
    if results["confirmatory"]:
        blocks.append(Text("Confirmatory: nobody had seen results of these patients before."))
    else:
        blocks.append(Notice(f"{NOT_CONFIRMATORY} Openings before this one: {before}."))
    if dice.value > IMPLAUSIBLE_DICE:
        blocks.append(
            Notice(
                f"A Dice above {IMPLAUSIBLE_DICE} from FLAIR slices alone is more than others "
                "reach: look for a leak before believing it. (Synthetic patients are easier.)"
            )
        )
    blocks.append(Text(f"{results['patients']} test patients, {dice.patients} with tumour."))
    return blocks


def _figure_table(frozen: Mapping[str, Interval], plain: Mapping[str, Interval]) -> Table:
    rows = [
        [name, interval_text(figure), interval_text(plain[name]) if name in plain else "–"]
        for name, figure in frozen.items()
    ]
    note = (
        "With 95 % intervals over patients. dice_slice_empty1 counts an empty slice left empty "
        "as 1: inflated, for comparison."
    )
    return Table(("figure", "at the frozen setting", "at plain 0.5"), rows, note)


def _baseline(run: RunInfo, results: Mapping[str, Any]) -> list[Block]:
    row = results["against_baseline"]
    if row is None:
        return [Text("No baseline was evaluated under the same seal.")]
    p, low, high = (_known(row[key]) for key in ("p", "ci_low", "ci_high"))
    verdict = row["verdict"]
    cells: list[str | Cell] = [
        f"promoted against {run.tags.get(BASELINE_RUN, 'baseline')[:8]}",
        Cell(verdict, verdict),
        number(row["mean"]),
        number(run.metrics.get("test_baseline/dice")),
        number(row["diff"], signed=True),
        interval(low, high, signed=True),
        p_value(p),
    ]
    header = ("test", "verdict", "Dice", "of the baseline", "difference", "95 % interval", "p")
    note = "Paired over patients; each run at its own frozen setting."
    return [Table(header, [cells], note, text_columns=2)]


def _strata(results: Mapping[str, Any]) -> Table:
    rows = [
        [
            one["name"],
            f"{one['smallest']:,.0f} to {one['largest']:,.0f}",
            str(one["dice"]["patients"]),
            interval_text(_interval(one["dice"])),
        ]
        for one in results["strata"]
    ]
    return Table(("tumours", "pixels", "patients", "Dice"), rows)


def _published(dice: Interval) -> Table:
    rows = [["this test", "", interval_text(dice)]]
    for one in PUBLISHED:
        span = f"{one.low:.4g}" if one.low == one.high else f"{one.low:.4g} to {one.high:.4g}"
        rows.append([one.setting, one.source, span])
    return Table(("whole tumour", "source", "Dice"), rows, text_columns=2)


def _openings(record: StudyRecord) -> list[Block]:
    """Every promotion of this experiment, also those that broke off."""
    runs = record.of_kind("promotion")
    if not runs or (len(runs) == 1 and record.promotion is not None):
        return []
    return [Table(OPENINGS, [_opening(run) for run in reversed(runs)], text_columns=5)]


def _opening(run: RunInfo) -> Sequence[str]:
    return [
        run.run_id[:8],
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.start_time)),
        run.status.lower(),
        {"true": "yes", "false": "no"}.get(run.tags.get("seglab.confirmatory", ""), "not opened"),
        run.tags.get("seglab.reopen_reason", "–"),
        number(run.metrics.get("test/dice"), 4),
    ]
