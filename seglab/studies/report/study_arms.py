"""What a study compared and searched: arms, single runs, trials."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from seglab.core.errors import UserError
from seglab.studies.candidates import DICE
from seglab.studies.comparison import ComparedAblation, compare_ablation
from seglab.studies.report import tables
from seglab.studies.report.document import Block, Cell, Notice, Section, Table, Text
from seglab.studies.report.pictures import comparison_pictures
from seglab.studies.report.record import CONFIRMATION, StudyRecord
from seglab.studies.report.sections import kept_weights, lead
from seglab.studies.report.study_setting import SHORT, duration, facts
from seglab.studies.results import collect
from seglab.tracking import RunInfo
from seglab.tracking.tags import PRUNED

MOST_ROWS = 20
SHOWN = ("forest", "patients", "learning")
NO_SEARCH = "No search was made in this experiment."
PICTURES = (
    ("search/history.png", "search-history", "Dice of every trial, in their order."),
    ("search/importance.png", "search-importance", "How much each parameter mattered."),
)
SAME_PATIENTS = (
    "The confirmation of an earlier version was judged on the patients that chose the best trials: "
    "its verdicts are optimistic."
)
STATES = ("complete", "pruned", "failed")


def compared(record: StudyRecord) -> ComparedAblation | str | None:
    """Compare the arms of the newest ablation that has something to compare.

    Returns:
        Why the newest one cannot be compared if none can, None if there is none.
    """
    reasons = []
    for parent in record.ablations:
        result = _compare(record, parent)
        if not isinstance(result, str):
            return result
        reasons.append(result)
    return reasons[0] if reasons else None


def _compare(record: StudyRecord, parent: RunInfo) -> ComparedAblation | str:
    try:
        return compare_ablation(collect(record.store, parent))
    except UserError as error:
        return str(error)


def arms_section(record: StudyRecord, result: ComparedAblation | str | None) -> Section:
    """Verdicts of the arms, or the runs where there are no arms."""
    if result is None:
        return Section("Arms", _single_runs(record))
    if isinstance(result, str):
        return Section("Arms", [Notice(result), *_single_runs(record)])
    shown = [p for p in comparison_pictures(result, record.store) if p.name in SHOWN]
    blocks: list[Block] = [*lead(result), tables.verdict_table(result), *shown]
    blocks.append(tables.spread_table(result))
    further = (tables.strata_table(result) if result.rows else None, tables.tuning_table(result))
    blocks += [table for table in further if table is not None]
    others = [run for run in record.ablations if run.run_id != result.ablation.parent.run_id]
    return Section("Arms", [*blocks, *_others(others)])


def _others(parents: Sequence[RunInfo]) -> list[Block]:
    if not parents:
        return []
    listed = ", ".join(run.run_id for run in parents)
    return [Text(f"The newest ablation with results is shown; others of this name: {listed}.")]


def _single_runs(record: StudyRecord) -> list[Block]:
    runs = record.of_kind("train")
    if not runs:
        return [Text("No arms were compared in this experiment, and no single run was trained.")]
    ranked = sorted(runs, key=lambda run: -run.metrics.get(DICE, -math.inf))
    rows = [
        [
            run.name,
            run.run_id[:8],
            _status(run),
            *(tables.number(run.metrics.get(f"val/{key}")) for key in ("dice", "dice_sd", "iou")),
            tables.number(run.metrics.get("val/kept_epoch", run.metrics.get("val/best_epoch")), 0),
        ]
        for run in ranked[:MOST_ROWS]
    ]
    header = ("run", "id", "status", "val Dice", "SD patients", "val IoU", "epoch judged")
    rest = len(ranked) - len(rows)
    note = f"And {rest} more." if rest else ""
    table = Table(header, rows, note, text_columns=3)
    said = (
        f"Single runs: no arms are compared, so nothing is said to be better. {kept_weights(runs)}"
    )
    return [Text(said), table]


def _status(run: RunInfo) -> str | Cell:
    word = run.status.lower()
    return Cell(word, "failed") if run.status in {"FAILED", "KILLED"} else word


def search_section(record: StudyRecord) -> Section:
    """Trials by state, the best one's values, its confirmation, and what mattered."""
    sweep = record.sweep
    if sweep is None:
        return Section("Search", [Text(NO_SEARCH)])
    trials = [run for run in record.of_kind("trial") if run.parent_run_id == sweep.run_id]
    names = _space(sweep)
    blocks: list[Block] = [_summary(sweep, trials)]
    if trials:
        blocks.append(_trials(trials, names))
    for path, name, caption in PICTURES:
        blocks += record.picture(sweep, path, name, caption)
    blocks += _confirmation(record, sweep)
    files = [p for p in record.files(sweep) if p.startswith("search/") or p == "best.yaml"]
    if files:
        blocks.append(Text(f"Logged with the search (run {sweep.run_id}): {', '.join(files)}."))
    return Section("Search", blocks)


def _space(sweep: RunInfo) -> list[str]:
    try:
        return list(json.loads(sweep.params.get("search.space", "{}")))
    except ValueError:
        return []


def _summary(sweep: RunInfo, trials: Sequence[RunInfo]) -> Table:
    counted = {state: sweep.metrics.get(f"search/{state}") for state in STATES}
    known = {state: count for state, count in counted.items() if count is not None}
    counts = ", ".join(
        f"{count:.0f} {state}" for state, count in known.items() if count is not None
    )
    finished = [run for run in trials if run.status == "FINISHED" and DICE in run.metrics]
    best = max(finished, key=lambda run: run.metrics[DICE], default=None)
    values = "none finished"
    if best is not None:
        values = f"{best.name}, validation Dice {tables.number(best.metrics[DICE], 4)}"
    return facts(
        [
            ("status", sweep.status.lower()),
            ("sampler", sweep.params.get("search.sampler", "")),
            ("trials", counts or f"{len(trials)} begun"),
            ("best trial", values),
            ("its values", "" if best is None else _values(best, _space(sweep))),
        ],
        "The best of a search is optimistic: it was chosen by the figure it is shown with.",
    )


def _values(run: RunInfo, names: Sequence[str]) -> str:
    return ", ".join(f"{name} = {short(run.params[name])}" for name in names if name in run.params)


def short(text: str) -> str:
    """A logged value with four digits if it is a fraction."""
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


def _trials(trials: Sequence[RunInfo], names: Sequence[str]) -> Table:
    ranked = sorted(trials, key=lambda run: -run.metrics.get(DICE, -math.inf))
    rows = [
        [
            run.tags.get("seglab.arm", run.name),
            "pruned" if PRUNED in run.tags else _status(run),
            tables.number(run.metrics.get(DICE), 4),
            duration(run.metrics.get("cost/train_seconds", 0.0)),
            *(short(run.params.get(name, "–")) for name in names),
        ]
        for run in ranked[:MOST_ROWS]
    ]
    rest = len(ranked) - len(rows)
    note = f"Best first; {rest} more are not shown." if rest else "Best first."
    return Table(("trial", "state", "val Dice", "training time", *names), rows, note, 2)


def _confirmation(record: StudyRecord, sweep: RunInfo) -> list[Block]:
    run_id, told = sweep.tags.get(CONFIRMATION), record.read_json(sweep, "confirmation.json")
    blocks: list[Block] = [Text(told["text"])] if told else []
    if run_id is None:
        return blocks or [
            Text("The best trials were not retrained over fresh seeds: no confirmation.")
        ]
    if told is None:
        blocks.append(Notice(SAME_PATIENTS))
    try:
        result = compare_ablation(collect(record.store, record.store.get_run(run_id)))
    except UserError as error:
        return [*blocks, Notice(f"The confirmation (run {run_id[:SHORT]}) gives nothing: {error}.")]
    return [*blocks, *lead(result), tables.verdict_table(result)]
