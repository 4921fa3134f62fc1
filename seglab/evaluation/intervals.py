"""Confidence intervals over patients for every figure of a test.

Each figure is a ratio of two sums over patients: a mean over patients has ones
below, a mean over slices the number of slices, the pooled Dice its pixels. The
ratio is bootstrapped through its linearised values (r + the influence of each
patient), which for a plain mean are the patients' own values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.bootstrap import bootstrap
from seglab.evaluation.metrics import PatientScore

FloatArray = NDArray[np.float64]
Parts = Callable[[PatientScore], tuple[float, float]]
"""What a patient adds above and below the fraction."""
RESAMPLES, CONFIDENCE = 10_000, 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; NaN where it, or its spread, is unknown."""

    value: float
    low: float
    high: float
    patients: int
    """Patients the figure is over."""


def intervals(scores: Sequence[PatientScore], *, seed: int = 0) -> dict[str, Interval]:
    """Give each figure of :func:`seglab.evaluation.scores.summarise` its 95 % interval.

    Shares are kept within [0, 1], distances and volumes above 0. Spreads and counts,
    which estimate nothing, are left out.

    Args:
        scores: of the patients.
        seed: of the bootstrap; the same patients are drawn whatever the figure.
    """
    return {
        name: interval([parts(score) for score in scores], largest, seed=seed)
        for name, (parts, largest) in FIGURES.items()
    }


def interval(
    parts: Sequence[tuple[float, float]], largest: float = np.inf, *, seed: int = 0
) -> Interval:
    """Interval of a ratio of sums over patients; those with nothing below are left out.

    Args:
        parts: (above, below) of each patient.
        largest: the figure lies in [0, ``largest``].
        seed: of the bootstrap.
    """
    table = np.array([pair for pair in parts if pair[1] > 0], dtype=np.float64).reshape(-1, 2)
    if len(table) == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    above, below = table.T
    ratio = above.sum() / below.sum()
    values = ratio + (above - ratio * below) / below.mean()
    sample = bootstrap(values[None], RESAMPLES, np.random.default_rng(seed))
    half = float(sample.half_widths(CONFIDENCE)[0])
    low, high = np.clip([ratio - half, ratio + half], 0.0, largest)
    return Interval(float(ratio), float(low), float(high), len(table))


def _mean(name: str, score: PatientScore) -> tuple[float, float]:
    """One patient's part of a mean over patients."""
    value = float(getattr(score, name))
    return (0.0, 0.0) if np.isnan(value) else (value, 1.0)


def _tumour_slices(score: PatientScore) -> tuple[float, float]:
    count = score.slices - score.empty_slices
    return (score.dice_slice_tumour * count, count) if count else (0.0, 0.0)


FIGURES: Mapping[str, tuple[Parts, float]] = {
    **{name: (partial(_mean, name), 1.0) for name in ("dice", "iou", "precision", "recall")},
    "dice_slice_tumour": (_tumour_slices, 1.0),
    "dice_slice_empty1": (lambda s: (s.dice_slice_empty1 * s.slices, s.slices), 1.0),
    "dice_pooled": (lambda s: (2.0 * s.tp, 2.0 * s.tp + s.fp + s.fn), 1.0),
    "empty_slice_fp_rate": (lambda s: (float(s.empty_slice_fp), float(s.empty_slices)), 1.0),
    "hd95_mm": (partial(_mean, "hd95_mm"), np.inf),
    "nsd_2mm": (partial(_mean, "nsd_2mm"), 1.0),
    "fp_volume_ml": (partial(_mean, "fp_volume_ml"), np.inf),
}
"""Name to what each patient adds, and the largest value."""
