"""Scores of a set of patients: their summary, and their table on disk."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from seglab.core.errors import UserError
from seglab.core.tables import read_rows
from seglab.evaluation.metrics import Counts, PatientScore, dice, mean

MOST_PIXELS = 2**40
"""Counts beyond it are no patient's, and their sums would not fit 64 bits."""
COLUMNS = tuple(field.name for field in fields(PatientScore))
_TEXT = ("patient_id", "grade")
_WHOLE = tuple(field.name for field in fields(PatientScore) if field.type == "int")


def summarise(scores: Sequence[PatientScore]) -> dict[str, float]:
    """Reduce patients to the figures of a run; undefined ones are NaN.

    ``dice``, ``iou``, ``precision``, ``recall``, ``hd95_mm`` and ``nsd_2mm`` are means
    over patients that have one, ``…_sd`` is the spread over them (n - 1). Slice figures
    are means over slices of all patients, ``dice_pooled`` is one Dice over all pixels.
    """
    per_patient = {
        name: mean([getattr(s, name) for s in scores])
        for name in ("dice", "iou", "precision", "recall", "hd95_mm", "nsd_2mm", "fp_volume_ml")
    }
    tumour_slices = [s.slices - s.empty_slices for s in scores]
    empty_slices = sum(s.empty_slices for s in scores)
    false_alarms = sum(s.empty_slice_fp for s in scores)
    return per_patient | {
        "dice_sd": _spread([s.dice for s in scores]),
        "iou_sd": _spread([s.iou for s in scores]),
        "dice_slice_tumour": _weighted([s.dice_slice_tumour for s in scores], tumour_slices),
        "dice_slice_empty1": _weighted(
            [s.dice_slice_empty1 for s in scores], [s.slices for s in scores]
        ),
        "dice_pooled": _pooled_dice(scores),
        "empty_slice_fp_rate": false_alarms / empty_slices if empty_slices else math.nan,
        "patients": float(len(scores)),
        "patients_without_tumour": float(sum(s.truth_px == 0 for s in scores)),
    }


def write_csv(path: Path, scores: Sequence[PatientScore]) -> None:
    """Write one row a patient; floats with every digit, so that reading gives them back."""
    partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with partial.open("w", newline="", encoding="utf-8") as file:
        # The standard's CRLF: with a bare LF a name that holds CR would not be quoted.
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)
    partial.replace(path)


def read_csv(path: Path) -> list[PatientScore]:
    """Read what :func:`write_csv` wrote.

    Raises:
        UserError: the file is absent, is no such table, holds a value of the wrong kind,
            or names a patient twice.
    """
    rows = enumerate(read_rows(path, strict=True), start=2)
    scores = [_parse(path, number, row) for number, row in rows]
    seen: set[str] = set()
    for score in scores:
        if score.patient_id in seen:
            raise UserError(f"{path}: patient '{score.patient_id}' is listed twice")
        seen.add(score.patient_id)
    return scores


def _parse(path: Path, number: int, row: dict[str, str]) -> PatientScore:
    missing = [name for name in COLUMNS if row.get(name) is None]
    if missing:
        raise UserError(f"{path}: row {number} has no column '{missing[0]}'")
    values: dict[str, str | float | None] = {}
    for name in COLUMNS:
        try:
            values[name] = _value(name, row[name])
        except ValueError:
            raise UserError(
                f"{path}: row {number}, column '{name}': '{row[name][:40]}' is not a number"
            ) from None
    return PatientScore(**values)  # type: ignore[arg-type]


def _value(name: str, text: str) -> str | float | None:
    if name in _TEXT:
        return text if text or name == "patient_id" else None
    if name not in _WHOLE:
        return float(text)
    count = int(text)
    if not 0 <= count < MOST_PIXELS:
        raise ValueError(f"{count} pixels or slices")
    return count


def _pooled_dice(scores: Sequence[PatientScore]) -> float:
    tp, fp, fn = (np.int64(sum(getattr(s, name) for s in scores)) for name in ("tp", "fp", "fn"))
    return float(dice(Counts(*map(np.asarray, (tp, fp, fn, 0)))))


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    kept = [value * weight for value, weight in zip(values, weights, strict=True) if weight]
    return sum(kept) / total if total else math.nan


def _spread(values: Sequence[float]) -> float:
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return float(array.std(ddof=1)) if array.size > 1 else math.nan
