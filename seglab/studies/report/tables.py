"""Tables of a comparison, a row an arm or a run, with figures as they are printed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import Any

import pandas as pd

from seglab.evaluation.comparison import ArmRow
from seglab.evaluation.scores import FEWEST_WITH_INTERVAL, size_text
from seglab.studies.comparison import IS_BASELINE, OTHER_TARGET, ComparedAblation

NONE = "–"
EXTREMES = 3
"""Patients of an arm that are listed as gaining, and as losing, the most."""
Columns = Mapping[str, tuple[str, str]]
"""Heading to the key of a figure, or two keys of limits, and how it is printed."""

VERDICTS: Columns = {
    "arm": ("arm", ""),
    "verdict": ("verdict", ""),
    "Dice": ("mean", ".3f"),
    "difference": ("diff", "+.3f"),
    "interval": ("ci_low ci_high", "+.3f"),
    "p": ("p", "p"),
    "p (Holm)": ("p_holm", "p"),
    "p (Wilcoxon)": ("p_wilcoxon", "p"),
    "wins : losses": ("record", ""),
    "first": ("share_first", ".0%"),
    "patients to find it": ("patients_to_find", ""),
    "to call it equivalent": ("patients_to_equate", ""),
}
SPREAD: Columns = {
    "arm": ("arm", ""),
    "seeds": ("seeds", "d"),
    "Dice interval": ("mean_low mean_high", ".3f"),
    "SD patients": ("sd_patients", ".3f"),
    "SD seeds": ("sd_seeds", ".4f"),
    "SD of differences": ("sd_diff", ".3f"),
    "p equivalent": ("p_equivalence", "p"),
}
SCORES: Columns = {
    "arm": ("arm", ""),
    "IoU": ("iou", ".3f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "Dice, tumour slices": ("dice_slice_tumour", ".3f"),
    "lesion F1": ("lesion_f1", ".3f"),
    "HD95 mm": ("hd95_mm", ".1f"),
    "NSD 2 mm": ("nsd_2mm", ".3f"),
    "false alarms, empty slices": ("empty_slice_fp_rate", ".3f"),
}
FIGURES: Mapping[str, tuple[str, str]] = {
    "dice": ("Dice", ".3f"),
    "iou": ("IoU", ".3f"),
    **{key: (name, spec) for name, (key, spec) in SCORES.items() if spec},
    "lesion_dice": ("Dice of matched lesions", ".3f"),
    "lesions_found": ("lesions found", ".2f"),
    "lesions_missed": ("lesions missed", ".2f"),
    "lesions_false": ("false lesions", ".2f"),
    "fp_volume_ml": ("false volume, ml", ".1f"),
    "dice_slice_empty1": ("Dice, all slices", ".3f"),
    "dice_pooled": ("Dice, all pixels", ".3f"),
}
"""Figures of a set of patients: key to the words of the page, and how it is printed."""
COST: Columns = {
    "arm": ("arm", ""),
    "Dice": ("mean", ".3f"),
    "M parameters": ("parameters_m", ".2f"),
    "GFLOP an image": ("gflops_per_image", ".2f"),
    "images/s": ("images_per_second", ".1f"),
    "runs": ("runs", "d"),
    "images a run": ("images", ",.0f"),
    "seconds a run": ("train_seconds", ".1f"),
}
TUNING_COST: Columns = {
    "tuning runs": ("trials", "d"),
    "their images": ("trial_images", ",.0f"),
    "their seconds": ("trial_seconds", ",.0f"),
}


def number(value: float | None, spec: str = ".3f") -> str:
    """Format a figure; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return format(value, spec).replace("-", "−")


def p_value(value: float | None) -> str:
    """Format a probability; a dash where there is none."""
    return "< 0.0001" if value is not None and value < 1e-4 else number(value, ".4f")


def about(count: int) -> str:
    """Two digits of a number that is no better known, as in 130,000."""
    return f"{float(f'{count:.2g}'):,.0f}"


def planned(count: int | None) -> str:
    """Format a number of patients that a larger study would need."""
    return "none" if count is None else about(count) if count else "enough"


def interval(low: float | None, high: float | None, spec: str = ".3f") -> str:
    """Format limits; a dash where nothing bounds them."""
    if low is None or math.isnan(low):
        return NONE
    return f"{number(low, spec)} to {number(high, spec)}"


def level(confidence: float) -> str:
    """Format the confidence of intervals."""
    return f"{100 * confidence:.3g} %"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural if it is not one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def difference(row: ArmRow) -> str:
    """An arm's difference to the baseline, with its interval if it has one."""
    limits = interval(row.ci_low, row.ci_high, "+.3f")
    return number(row.diff, "+.3f") + ("" if limits == NONE else f" ({limits})")


def by_cause(warnings: Sequence[tuple[str, str]], count: int, file: str) -> list[str]:
    """Each cause of warnings of some of ``count`` patients once, with an example.

    Warnings that differ in figures and names only have one cause; ``file`` has all of them.
    """
    causes: dict[str, list[tuple[str, str]]] = {}
    for who, text in warnings:
        varying = rf"\b{re.escape(who)}\b|(?<!\w)[-+]?\d[\d.]*"
        causes.setdefault(re.sub(varying, "#", text), []).append((who, text))
    lines = []
    for found in causes.values():
        (who, text), times = found[0], len(found)
        without_names = {text.removeprefix(f"{who} ") for who, text in found}
        if len(without_names) == 1:
            text = without_names.pop()
        else:
            text += f" (this is {who}; the others: {file})"
        if times > 1:
            who = f"{'all' if times == count else f'{times} of'} {count} patients"
        lines.append(f"{who}: warning: {text}")
    return lines


def short(value: object) -> str:
    """A value with four digits if it is a fraction."""
    try:
        text = str(value)
        return text if text.lstrip("-").isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; a tenth of a second below a minute."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def arm_table(result: ComparedAblation, columns: Columns) -> pd.DataFrame:
    """Lay out figures of the arms; a dash where an arm has none."""
    rows = []
    for summary in result.summaries:
        arm = summary.arm
        spent = {**result.costs[arm], **result.budgets.arms[arm]}
        row: dict[str, Any] = {**result.other_scores[arm], **spent, **vars(summary)}
        row["verdict"] = result.verdicts.get(arm, IS_BASELINE)
        if row["verdict"] == OTHER_TARGET or not result.budgets.all_equal:
            row["share_first"] = None
        if isinstance(summary, ArmRow):
            row["record"] = f"{summary.wins} : {summary.losses}"
            enough = result.comparison.n_patients >= FEWEST_WITH_INTERVAL
            shown = enough and row["verdict"] == "undecided"
            for key in ("patients_to_find", "patients_to_equate"):
                row[key] = planned(row[key]) if shown else NONE
        rows.append({label: _cell(row, *column) for label, column in columns.items()})
    return pd.DataFrame(rows)


def _cell(row: Mapping[str, Any], keys: str, spec: str) -> str:
    values = [row.get(key) for key in keys.split()]
    if len(values) == 2:
        low, high = values
        return interval(low, high, spec)
    if not spec:
        return values[0] or NONE
    return p_value(values[0]) if spec == "p" else number(values[0], spec)


def verdict_table(result: ComparedAblation) -> pd.DataFrame:
    """The answer: each arm's difference to the baseline and the one word for it."""
    table = arm_table(result, VERDICTS)
    if (table["interval"] == NONE).all():
        return table
    title = f"{level(result.comparison.confidence)} interval"
    return table.rename(columns={"interval": title})


def cost_table(result: ComparedAblation) -> pd.DataFrame:
    """What each arm costs, and what it was given."""
    tuned = any(one["trials"] for one in result.budgets.arms.values())
    return arm_table(result, {**COST, **(TUNING_COST if tuned else {})})


def strata_table(result: ComparedAblation) -> pd.DataFrame:
    """Differences among small, medium and large tumours, and within grades; a row an arm."""
    columns: dict[str, dict[str, str]] = {}
    for stratum in result.strata:
        count = f"{stratum.comparison.n_patients} patients"
        heading = ", ".join(filter(None, (stratum.name, stratum.rule, count)))
        columns[heading] = {row.arm: difference(row) for row in stratum.comparison.rows}
    return pd.DataFrame(columns).rename_axis("arm").reset_index()


def extremes_table(result: ComparedAblation) -> pd.DataFrame:
    """Patients that gain and lose the most under each arm, side by side."""
    rows = []
    for row in result.rows:
        gained = result.dice[row.arm] - result.dice[result.baseline]
        gained = gained.sort_values(ascending=False, kind="stable")
        gains, losses = gained[gained > 0].index, gained[gained < 0].index[::-1]
        for pair in zip_longest(gains[:EXTREMES], losses[:EXTREMES]):
            rows.append((row.arm, *(_change(result, row.arm, name) for name in pair)))
    return pd.DataFrame(rows, columns=["arm", "gains most", "loses most"])


def _change(result: ComparedAblation, arm: str, patient: str | None) -> str:
    if patient is None:
        return NONE
    score, dice = result.patients[patient], result.dice.loc[patient]
    about = ", ".join(filter(None, (size_text(score.truth_ml, score.truth_px), score.grade)))
    return f"{patient} ({about}): {number(dice[result.baseline])} → {number(dice[arm])}"


def patient_table(result: ComparedAblation) -> pd.DataFrame:
    """A row a patient, arm and seed, with every digit: ``patients.csv``."""
    return pd.DataFrame(
        {"arm": arm.name, "seed": seed, **vars(score)}
        for arm in result.ablation.arms
        for seed in arm.seeds
        for score in arm.scores(seed)
    )
