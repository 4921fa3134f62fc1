"""Overlap scores: counts first, and every score a pure function of them.

A ratio whose denominator is zero is NaN. A patient without tumour in the truth has no overlap
or surface score; its false alarms are counted in ``pred_ml`` and ``empty_slice_fp`` instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seglab.evaluation.lesions import lesion_scores
from seglab.evaluation.surface import surface_scores

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
MM3_PER_ML = 1000.0


class Counts(NamedTuple):
    """Pixels agreed and disagreed on; int64 arrays of one shape, 0-d for a total."""

    tp: IntArray
    fp: IntArray
    fn: IntArray


def slice_counts(pred: NDArray[np.generic], truth: NDArray[np.generic]) -> Counts:
    """Count the pixels (S,) of masks (S, H, W), bool or integer; non-zero is tumour."""
    pred, truth = _as_masks(pred, truth)
    tp = _per_slice(pred & truth)
    return Counts(tp=tp, fp=_per_slice(pred) - tp, fn=_per_slice(truth) - tp)


def dice(counts: Counts) -> FloatArray:
    """2·TP / (2·TP + FP + FN), in [0, 1]; NaN where both masks are empty."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def iou(counts: Counts) -> FloatArray:
    """TP / (TP + FP + FN), in [0, 1]; NaN where both masks are empty."""
    return _ratio(counts.tp, counts.tp + counts.fp + counts.fn)


@dataclass(frozen=True)
class PatientScore:
    """All that is known about one patient's prediction; a row of ``patients_*.csv``.

    Ratios are in [0, 1]; NaN: undefined, or, of distances and volumes, no spacing is known.
    Distances are NaN too where slices are missing; volumes are those of the slices that are there.
    """

    patient_id: str
    grade: str | None
    dice: float  # over all slices; NaN without tumour in the truth, as the next three
    iou: float
    precision: float
    recall: float
    dice_slice_tumour: float  # mean over the patient's tumour-bearing slices
    dice_slice_empty1: float  # mean over all slices, empty–empty as 1: inflated
    hd95_mm: float
    nsd_2mm: float
    slices: int
    empty_slices: int  # without tumour in the truth
    empty_slice_fp: int  # those of them in which something is predicted
    tp: int
    fp: int
    fn: int
    truth_px: int
    pred_px: int
    truth_ml: float
    pred_ml: float
    fp_volume_ml: float  # predicted where the truth has none
    # See LesionScores; tables of earlier versions lack them.
    lesion_f1: float = math.nan
    lesions_found: float = math.nan
    lesions_missed: float = math.nan
    lesions_false: float = math.nan
    lesion_dice: float = math.nan


def score_patient(
    patient_id: str,
    pred: NDArray[np.generic],
    truth: NDArray[np.generic],
    spacing_mm: tuple[float, float, float] | None,
    contiguous: bool,
    grade: str | None = None,
    surface: bool = True,
) -> PatientScore:
    """Score one patient on the native grid; a ValueError where the masks' shapes differ.

    Masks are (S, H, W), bool or integer: non-zero is tumour. ``spacing_mm`` is (slice, row,
    column), None where unknown; slices that are ``contiguous`` form a volume. Without ``surface``
    the scores of surfaces and lesions, which cost the most, are NaN.
    """
    pred, truth = _as_masks(pred, truth)
    per_slice = slice_counts(pred, truth)
    total, slice_dice = Counts(*(part.sum() for part in per_slice)), dice(per_slice)
    tumour = (per_slice.tp + per_slice.fn) > 0
    has_tumour, is_volume = bool(tumour.any()), contiguous and len(truth) > 1
    hd95_mm = nsd_2mm = math.nan
    if surface and is_volume and spacing_mm is not None:
        hd95_mm, nsd_2mm = surface_scores(pred, truth, spacing_mm)
    lesions = lesion_scores(pred, truth, contiguous)._asdict() if surface else {}
    ml_per_px = float(np.prod(spacing_mm)) / MM3_PER_ML if spacing_mm else np.nan
    tp, fp, fn = int(total.tp), int(total.fp), int(total.fn)
    return PatientScore(
        patient_id=patient_id,
        grade=grade,
        dice=float(dice(total)) if has_tumour else np.nan,
        iou=float(iou(total)) if has_tumour else np.nan,
        precision=float(_ratio(total.tp, total.tp + total.fp)) if has_tumour else np.nan,
        recall=float(_ratio(total.tp, total.tp + total.fn)),
        dice_slice_tumour=mean(slice_dice[tumour]),
        dice_slice_empty1=mean(np.nan_to_num(slice_dice, nan=1.0)),
        hd95_mm=hd95_mm,
        nsd_2mm=nsd_2mm,
        slices=len(tumour),
        empty_slices=int((~tumour).sum()),
        empty_slice_fp=int((per_slice.fp[~tumour] > 0).sum()),
        tp=tp,
        fp=fp,
        fn=fn,
        truth_px=tp + fn,
        pred_px=tp + fp,
        truth_ml=(tp + fn) * ml_per_px,
        pred_ml=(tp + fp) * ml_per_px,
        fp_volume_ml=fp * ml_per_px,
        **lesions,
    )


def mean(values: ArrayLike) -> float:
    """Mean over what is not NaN; NaN, without a warning, where nothing is left."""
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else float("nan")


def _as_masks(pred: NDArray[np.generic], truth: NDArray[np.generic]) -> tuple[BoolArray, BoolArray]:
    if pred.shape != truth.shape or pred.ndim != 3:
        raise ValueError(f"not both masks are (S, H, W): {pred.shape} and {truth.shape}")
    return pred.astype(bool, copy=False), truth.astype(bool, copy=False)


def _per_slice(mask: BoolArray) -> IntArray:
    # count_nonzero along an axis sums integers; over a whole array it counts bytes, 20× faster.
    return np.array([np.count_nonzero(plane) for plane in mask], dtype=np.int64)


def _ratio(numerator: IntArray, denominator: IntArray) -> FloatArray:
    ratio: FloatArray = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=np.asarray(denominator) > 0)
    return ratio


@dataclass(frozen=True)
class Case:
    """A patient's image, truth and prediction on the native grid; S slices of H×W pixels."""

    patient_id: str
    image: UInt8  # (S, H, W), 0 is background, 1 to 255 the brain
    truth: UInt8  # (S, H, W) in {0, 1}
    probability: UInt8  # (S, H, W), 0 to 255 for a probability of 0 to 1
    prediction: UInt8  # (S, H, W) in {0, 1}
    slice_indices: NDArray[np.int32]  # (S,) ascending positions in the full stack
    spacing_mm: tuple[float, float, float] | None  # (slice, row, column); None where unknown
    upright: bool  # rows run top to bottom; False where a slice is stored on its side
    score: PatientScore
    modality: str = "flair"  # of the image
    disagreement: UInt8 | None = None  # (S, H, W), 0 to 255 for an ensemble's SD of 0 to 0.5
