"""Scores of a set of patients: their figures with intervals, calibration, their table on disk."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from seglab.core.documents import read_rows
from seglab.core.errors import UserError
from seglab.evaluation.metrics import PatientScore, dice, slice_counts
from seglab.evaluation.statistics import RESAMPLES, FloatArray, bootstrap_pivots

Parts = Callable[[PatientScore], tuple[float, float]]
CONFIDENCE: Final = 0.95
FEWEST_RESAMPLED: Final = 8
FEWEST_WITH_INTERVAL: Final = 5
"""Patients below which no page shows an interval: its own uncertainty is larger than it."""
NEAR_PX: Final = 10
SIZES: Final = ("small", "medium", "large")
BINS = 10


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; NaN where it, or its spread, is unknown."""

    value: float
    low: float
    high: float
    patients: int  # patients the figure is over


def size_text(ml: float, px: int) -> str:
    """A volume in millilitres where the spacing is known, else in pixels."""
    if 0 < ml < 0.1:
        return "less than 0.1 ml"
    return f"{ml:.1f} ml" if math.isfinite(ml) else f"{px:,} px"


def score_rows(score: PatientScore) -> dict[str, str]:
    """The figures of a patient that stand beside a picture, as text by name."""
    figures = {"Dice": score.dice, "IoU": score.iou, "precision": score.precision}
    figures["recall"] = score.recall
    return {
        **{k: f"{v:.3f}" if math.isfinite(v) else "undefined" for k, v in figures.items()},
        "tumour": size_text(score.truth_ml, score.truth_px),
        "predicted": size_text(score.pred_ml, score.pred_px),
    }


def summarise(scores: Sequence[PatientScore]) -> dict[str, float]:
    """Reduce patients to :data:`FIGURES`, counts and ``…_sd``, spreads (n - 1); NaN: undefined."""
    return {
        **{name: _ratio(_table(scores, parts)) for name, (parts, _) in FIGURES.items()},
        "dice_sd": spread([s.dice for s in scores]),
        "iou_sd": spread([s.iou for s in scores]),
        "patients": float(len(scores)),
        "patients_without_tumour": float(sum(s.truth_px == 0 for s in scores)),
    }


def intervals(scores: Sequence[PatientScore]) -> dict[str, Interval]:
    """Give each of :data:`FIGURES` its interval; shares stay within [0, 1], others above 0."""
    figures = FIGURES.items()
    return {name: interval(_table(scores, parts), most) for name, (parts, most) in figures}


def interval(parts: ArrayLike, largest: float = math.inf) -> Interval:
    """Interval of a ratio of sums over patients, by the symmetric bootstrap-t.

    The ratio r is resampled through its linearised values, r + the influence of each patient.
    Student's interval stands in for fewer than 8 patients, and where many share one value.
    ``parts`` (n, 2) are what each patient adds above and below; without a part below it is left
    out. The figure lies in [0, ``largest``].
    """
    table = np.asarray(parts, dtype=np.float64).reshape(-1, 2)
    above, below = table[table[:, 1] > 0].T
    ratio, count = _ratio(table), len(below)
    if count < 2:
        return Interval(ratio, math.nan, math.nan, count)
    half = half_widths((ratio + (above - ratio * below) / below.mean())[None])[0]
    low, high = np.clip([ratio - half, ratio + half], 0.0, largest)
    return Interval(ratio, float(low), float(high), count)


def half_widths(values: FloatArray) -> FloatArray:
    """Half widths (K,) of the 95 % intervals of the means of (K, n) values; NaN for n = 1."""
    count = values.shape[1]
    if count < 2:
        return np.full(len(values), np.nan)
    student = student_quantile(count)
    pivots = bootstrap_pivots(values, RESAMPLES, np.random.default_rng(0))
    factors = np.quantile(pivots, CONFIDENCE, axis=1, method="inverted_cdf")
    factors[(count < FEWEST_RESAMPLED) | ~np.isfinite(factors)] = student
    half: FloatArray = factors * values.std(axis=1, ddof=1) / math.sqrt(count)
    return half


def student_quantile(count: int) -> float:
    """Half width of Student's 95 % interval of a mean of ``count`` values, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))


def _table(scores: Sequence[PatientScore], parts: Parts) -> FloatArray:
    return np.array([parts(score) for score in scores], dtype=np.float64).reshape(-1, 2)


def _ratio(table: FloatArray) -> float:
    above, below = table.sum(axis=0)
    return float(above / below) if below > 0 else math.nan


def _mean(name: str, score: PatientScore) -> tuple[float, float]:
    value = float(getattr(score, name))
    return (0.0, 0.0) if math.isnan(value) else (value, 1.0)


def _tumour_slices(score: PatientScore) -> tuple[float, float]:
    count = score.slices - score.empty_slices
    return (score.dice_slice_tumour * count, count) if count else (0.0, 0.0)


_SHARES = ("dice", "iou", "precision", "recall", "lesion_f1", "lesion_dice", "nsd_2mm")
_AMOUNTS = ("lesions_found", "lesions_missed", "lesions_false", "hd95_mm", "fp_volume_ml")
FIGURES: Final[Mapping[str, tuple[Parts, float]]] = {
    **{name: (partial(_mean, name), 1.0) for name in _SHARES},
    **{name: (partial(_mean, name), math.inf) for name in _AMOUNTS},
    "dice_slice_tumour": (_tumour_slices, 1.0),
    "dice_slice_empty1": (lambda s: (s.dice_slice_empty1 * s.slices, s.slices), 1.0),
    "dice_pooled": (lambda s: (2.0 * s.tp, 2.0 * s.tp + s.fp + s.fn), 1.0),
    "empty_slice_fp_rate": (lambda s: (float(s.empty_slice_fp), float(s.empty_slices)), 1.0),
}
"""Each figure of a set of patients as a ratio of sums: what a patient adds above and below,
and the largest value. Means over patients leave out those without the score; slice figures
are means over the slices of all patients; ``dice_pooled`` is one Dice over all pixels."""


def to_csv(scores: Sequence[PatientScore]) -> str:
    """Give one row a patient; floats with every digit, so that reading gives them back."""
    file = io.StringIO(newline="")
    # The standard's CRLF: with a bare LF a name that holds CR would not be quoted.
    writer = csv.DictWriter(file, [field.name for field in fields(PatientScore)])
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    return file.getvalue()


def from_csv(table: bytes, where: str) -> list[PatientScore]:
    """Read what :func:`to_csv` gave; a UserError for another table, or a patient twice."""
    parse, scores = TypeAdapter(PatientScore).validate_python, dict[str, PatientScore]()
    for number, row in enumerate(read_rows(where, "patient_id", table), start=2):
        try:
            score = parse({**row, "grade": row.get("grade") or None})
        except ValidationError as error:
            first = error.errors()[0]
            name = first["loc"][0]
            wrong = f", column '{name}': '{str(first['input'])[:40]}' is not a number"
            wrong = f" has no column '{name}'" if first["type"] == "missing" else wrong
            raise UserError(f"{where}: row {number}{wrong}") from None
        if score.patient_id in scores:
            raise UserError(f"{where}: patient '{score.patient_id}' is listed twice")
        scores[score.patient_id] = score
    return list(scores.values())


def spread(values: ArrayLike) -> float:
    """Standard deviation (n - 1) of what is not NaN; NaN for fewer than two values."""
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return float(array.std(ddof=1)) if array.size > 1 else math.nan


def stratify(volumes: ArrayLike) -> list[str | None]:
    """Name the tertile, of :data:`SIZES`, of each tumour volume (n,); None for 0 and NaN."""
    sizes = np.asarray(volumes, dtype=np.float64)
    tumour = sizes > 0
    edges = np.quantile(sizes[tumour], [1 / 3, 2 / 3]) if tumour.any() else [0, 0]
    ranks = np.searchsorted(edges, sizes, side="left")
    return [SIZES[r] if has else None for r, has in zip(ranks, tumour, strict=True)]


def reliability(
    probability: NDArray[np.float32], truth: NDArray[np.uint8], inside: NDArray[np.bool_]
) -> FloatArray:
    """Count the pixels of one patient by predicted probability, in ``BINS`` bins of equal width.

    Of probability and truth (S, H, W) only pixels ``inside`` count, see :func:`in_question`.
    Returns (3, BINS), which may be added up: pixels, those with tumour, sum of their probabilities.
    """
    p = probability[inside].astype(np.float64)
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    weights = (np.ones_like(p), truth[inside].astype(np.float64), p)
    return np.array([np.bincount(bins, one, minlength=BINS) for one in weights])


def in_question(
    brain: NDArray[np.bool_], truth: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Mark the brain within 10 pixels of true or predicted tumour: (S, H, W).

    Elsewhere every network is sure and right, which would hide how it errs (Mehrtash 2020).
    """
    import cv2

    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * NEAR_PX + 1, 2 * NEAR_PX + 1))
    marked = ((truth != 0) | (prediction != 0)).astype(np.uint8)
    near: NDArray[np.bool_] = np.array([cv2.dilate(one, disc) for one in marked]) != 0
    return brain & near


def calibration(sums: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Mean probability and share of tumour (BINS,) of each bin, and the expected error in [0, 1].

    NaN in an empty bin. The error is the mean gap weighted by pixels (Naeini 2015).
    """
    pixels, tumour, probability = sums
    counted = np.where(pixels > 0, pixels, np.nan)
    gaps = np.nan_to_num(np.abs(probability - tumour) / counted)
    error = float(np.average(gaps, weights=pixels)) if pixels.any() else math.nan
    return probability / counted, tumour / counted, error


def slice_dice(
    prediction: NDArray[np.generic],
    truth: NDArray[np.uint8],
    slice_indices: NDArray[np.int32],
    stack_size: int,
) -> FloatArray:
    """Score each slice of (S, H, W) masks that has tumour or a prediction by itself.

    Returns (2, n): place in the stack, 0 the first slice and 1 the last; Dice.
    """
    scores = dice(slice_counts(prediction, truth))
    known = np.isfinite(scores)
    return np.stack([slice_indices[known] / max(stack_size - 1, 1), scores[known]])


PUBLISHED = [
    {"setting": setting, "low": low, "high": high, "source": source}
    for setting, low, high, source in (
        ("2-D, FLAIR only, BraTS 2019, hidden validation", 0.81, 0.84, "Zeineldin 2020"),
        ("FLAIR only at test, BraTS 2020, 3-D, per volume", 0.869, 0.898, "RFNet to DeMoSeg"),
        ("all four modalities, BraTS 2020 winner, test", 0.8895, 0.8895, "Isensee 2020"),
        ("two human raters, over tumour regions", 0.74, 0.85, "Menze 2015"),
    )
]
"""Published Dice, or the range of several."""
CAVEAT = (
    "Other data, other splits, often other inputs: these figures say in what region a result "
    "lies, and not which method is better."
)
