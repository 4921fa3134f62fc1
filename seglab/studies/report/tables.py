"""Tables of the report: a row an arm, a patient or a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import zip_longest

from seglab.evaluation.comparison import ArmRow, ArmSummary
from seglab.studies.comparison import (
    EXTREMES,
    IS_BASELINE,
    ComparedAblation,
    PatientDifference,
)
from seglab.studies.report.document import Cell, Table
from seglab.tracking.tags import FOLD, SEED, TUNED


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Format a figure; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''},.{digits}f}".replace("-", "−")


def p_value(value: float) -> str:
    """Format a probability; a dash where there is none."""
    return "< 0.0001" if value < 1e-4 else number(value, 4)


def interval(low: float, high: float, signed: bool = False) -> str:
    """Format limits; a dash where nothing bounds them."""
    if math.isnan(low):
        return "–"
    return f"{number(low, 3, signed)} to {number(high, 3, signed)}"


def verdict_table(result: ComparedAblation) -> Table:
    """The answer: each arm's difference to the baseline and the one word for it."""
    rows = [_verdict_row(result, summary) for summary in result.summaries]
    return Table(
        header=(
            *("arm", "verdict", "Dice", "difference", confidence(result), "p", "p (Holm)"),
            *("p (Wilcoxon)", "wins : losses", "patients to decide"),
        ),
        rows=rows,
        note=f"Dice of a patient over all slices on the native grid; mean over "
        f"{result.comparison.n_patients} patients, seeds averaged within a patient. Difference: "
        f"arm minus {result.comparison.baseline.arm}. p, the interval and the verdict are of one "
        "test; the interval leaves 0 outside exactly where the verdict is better or worse. "
        "Wilcoxon's p is shown beside it. Wins and losses count patients.",
        text_columns=2,
    )


def confidence(result: ComparedAblation) -> str:
    """Name the intervals of the differences: "97.5% interval"."""
    return f"{100 * result.comparison.confidence:.3g}% interval"


def _verdict_row(result: ComparedAblation, summary: ArmSummary) -> Sequence[str | Cell]:
    if not isinstance(summary, ArmRow):
        dashes = ["–"] * 7
        word = result.verdicts.get(summary.arm, IS_BASELINE)
        return [summary.arm, Cell(word, word), number(summary.mean), *dashes]
    verdict = result.verdicts[summary.arm]
    needed = patients_needed(summary) if verdict == "undecided" else "–"
    return [
        summary.arm,
        Cell(verdict, verdict),
        number(summary.mean),
        number(summary.diff, signed=True),
        interval(summary.ci_low, summary.ci_high, signed=True),
        p_value(summary.p),
        p_value(summary.p_holm),
        p_value(summary.p_wilcoxon),
        f"{summary.wins} : {summary.losses}",
        needed,
    ]


def patients_needed(row: ArmRow) -> str:
    """How many patients would decide, if any number would."""
    if row.needs_seeds:
        return "more seeds"
    return _count(row.patients_needed)


def tests_table(result: ComparedAblation) -> Table:
    """What equivalence and the number of patients rest on."""
    rows = [
        [
            row.arm,
            number(row.sd_diff),
            p_value(row.p_equivalence),
            patients_needed(row),
        ]
        for row in result.rows
    ]
    margin = result.comparison.margin
    return Table(
        header=("arm", "SD of differences", "p equivalent", "patients to decide"),
        rows=rows,
        note=f"Equivalent: two one-sided tests within ±{margin:g}. Patients: for a power of 80 %, "
        "if these figures were the truth; a dash: no number would.",
    )


def _count(patients: int | None) -> str:
    return "–" if patients is None else f"{patients:,}"


def spread_table(result: ComparedAblation) -> Table:
    """How far patients and seeds scatter, beside the other scores."""
    rows = []
    for summary in result.summaries:
        other = result.other_scores[summary.arm]
        rows.append(
            [
                summary.arm,
                str(summary.seeds),
                interval(summary.mean_low, summary.mean_high),
                number(summary.sd_patients),
                number(summary.sd_seeds, 4),
                number(other["iou"]),
                number(other["precision"]),
                number(other["recall"]),
                number(other["dice_slice_tumour"]),
                number(other["hd95_mm"], 1),
                number(other["nsd_2mm"]),
                number(other["empty_slice_fp_rate"]),
            ]
        )
    return Table(
        header=(
            *("arm", "seeds", "Dice interval", "SD patients", "SD seeds", "IoU", "precision"),
            *("recall", "Dice, tumour slices", "HD95 mm", "NSD 2 mm", "false alarms, empty slices"),
        ),
        rows=rows,
        note="SD patients: spread over patients of the Dice averaged over seeds. SD seeds: spread "
        "over seeds of the mean over patients. False alarms: share of slices without tumour in "
        "which some is predicted.",
    )


def strata_table(result: ComparedAblation) -> Table | None:
    """Differences among small, medium and large tumours, and within grades; a row an arm.

    None where no group has patients enough.
    """
    if not result.strata:
        return None
    header = ["arm"]
    for stratum in result.strata:
        count = f"{stratum.comparison.n_patients} patients"
        header.append(", ".join(filter(None, (stratum.name, stratum.rule, count))))
    rows = []
    for arm in [row.arm for row in result.rows]:
        cells = [arm]
        for stratum in result.strata:
            row = next(row for row in stratum.comparison.rows if row.arm == arm)
            diff, low, high = (number(v, signed=True) for v in (row.diff, row.ci_low, row.ci_high))
            cells.append(f"{diff} [{low}, {high}]")
        rows.append(cells)
    return Table(
        header=header,
        rows=rows,
        note="Difference to the baseline among these patients alone, with its interval; tumours "
        "in thirds by true size. Fewer patients, and not corrected for looking several times: a "
        "place to look next, not a finding.",
    )


def extremes_table(result: ComparedAblation) -> Table:
    """Patients that gain and lose the most under each arm, side by side."""
    rows: list[Sequence[str]] = []
    for row in result.rows:
        changes = result.differences(row.arm)
        gains = [change for change in changes if change.difference > 0][:EXTREMES]
        losses = [change for change in reversed(changes) if change.difference < 0][:EXTREMES]
        for gain, loss in zip_longest(gains, losses):
            rows.append([row.arm, *_change_cells(gain), *_change_cells(loss)])
    change = ("true tumour", "Dice")
    return Table(
        header=("arm", "gains most", *change, "loses most", *change),
        rows=rows,
        text_columns=2,
        note="Dice: of the baseline → of the arm, seeds averaged.",
    )


def _change_cells(change: PatientDifference | None) -> Sequence[str]:
    if change is None:
        return ["–"] * 3
    return [
        change.patient_id,
        f"{change.truth}, {change.grade}" if change.grade else change.truth,
        f"{number(change.baseline)} → {number(change.arm)}",
    ]


def cost_table(result: ComparedAblation) -> Table:
    """What each arm costs, and what it was given."""
    tuned = any(spent.trials for spent in result.budgets.arms)
    rows = []
    for summary in result.summaries:
        cost = result.costs[summary.arm]
        spent = next(spent for spent in result.budgets.arms if spent.arm == summary.arm)
        tuning = (spent.trials, spent.trial_images, spent.trial_seconds) if tuned else ()
        rows.append(
            [
                summary.arm,
                number(summary.mean),
                number(cost["parameters_m"], 2),
                number(cost["gflops_per_image"], 2),
                number(cost["images_per_second"], 1),
                str(spent.runs),
                number(spent.images, 0),
                number(spent.train_seconds, 1),
                *(number(value, 0) for value in tuning),
            ]
        )
    return Table(
        header=(
            *("arm", "Dice", "M parameters", "GFLOP an image", "images/s", "runs"),
            *("images a run", "seconds a run"),
            *(("tuning trials", "their images", "their seconds") if tuned else ()),
        ),
        rows=rows,
        note=f"Budget: equal {result.budgets.unit} a run. GFLOP: one forward pass, two a "
        "multiply-add. images/s: in training.",
    )


def tuning_table(result: ComparedAblation) -> Table | None:
    """What the search for nuisance parameters tried and chose; None if there was none."""
    chosen = json.loads(result.ablation.parent.tags.get(TUNED, "{}"))
    rows = []
    for arm, trials in result.ablation.trials.items():
        for run in sorted(trials, key=lambda run: run.start_time):
            values = json.loads(run.tags.get("seglab.values", "{}"))
            rows.append(
                [
                    arm,
                    _values(values),
                    "chosen" if values == chosen.get(arm) else "",
                    number(run.metrics.get("val/dice")),
                    run.status.lower(),
                ]
            )
    if not rows:
        return None
    return Table(
        header=("arm", "values", "", "Dice", "status"),
        rows=rows,
        note="Chosen by validation Dice with a seed that is not compared. Choosing on the patients "
        "that are compared flatters every arm alike.",
        text_columns=3,
    )


def _values(values: dict[str, object]) -> str:
    shown = (f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in values.items())
    return ", ".join(shown) or "as in the file"


def runs_table(result: ComparedAblation) -> Table:
    """Every run, with the id that finds it again."""
    rows: list[Sequence[str | Cell]] = []
    for arm in result.ablation.arms:
        for child in arm.children:
            dice = number(child.run.metrics.get("val/dice"))
            place = [str(child.seed), str(child.fold)]
            rows.append([arm.name, *place, child.run.run_id, "finished", dice])
    for run in result.ablation.unfinished:
        status = Cell(run.status.lower(), "failed")
        place = [run.tags[SEED], run.tags.get(FOLD, "0")]
        rows.append([run.tags["seglab.arm"], *place, run.run_id, status, "–"])
    return Table(header=("arm", "seed", "fold", "run", "status", "Dice"), rows=rows, text_columns=5)
