"""The scanner's whole numbers back from slices that were z-scored one by one.

Intensities of BraTS are whole numbers, so the values of a z-scored slice are equally spaced, and
the spacing is 1/σ of the slice: the smallest gap between values is one unit of the scanner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.data.normalise import most_frequent

Array = NDArray[Any]

MOST_LEVELS = 2**16
"""Of whole numbers that a scanner writes; more of them are numbers with a fraction."""
TOLERANCE = 1e-3  # of a unit. Whole numbers come back to within 1e-9, others lie anywhere.
SAMPLES = 2048  # so many pixels of a brain tell the gap, and all of them test it
SURE = 10  # so many distinct values have no common divisor (1 in 1,000 has, if they fall by chance)
BRIGHTNESS_SD = 0.5
"""Of the logarithm of an almost empty slice's brightness over that of its neighbours."""
ODD_COST = 8.0
"""The brightness costs no more than this: the last slice of an interpolation is dark by itself."""


def one_scale(slices: Sequence[Array] | Array) -> tuple[NDArray[np.float32], bool, str]:
    """Take the scanner's whole numbers back from the z-scored slices (H, W) of one volume.

    A slice of few distinct values is brought to its neighbours' brightness by a whole factor.
    Where another slice does not fit, all keep the scale that they have. Returns the image
    (S, H, W), 0 on background where they share one scale; whether they do; and what to tell of it.
    """
    levels = np.zeros((len(slices), *slices[0].shape), np.float32)
    distinct = np.zeros(len(slices), int)
    why = ""
    for index, scores in enumerate(slices):
        found = restore(scores.astype(np.float64, copy=False))
        if found is None:
            why = f"slice {index + 1} holds no whole numbers of a scanner"
            break
        levels[index], distinct[index] = found
    sure = np.flatnonzero(distinct >= SURE)
    unsure = np.flatnonzero((distinct > 0) & (distinct < SURE))
    if not why and len(unsure) and not len(sure):
        why = "too few grey values to tell the scale of a slice"
    if why:
        stored = np.asarray(slices).astype(np.float32, copy=False)
        return stored, False, f"{why}: every slice keeps an intensity scale of its own"
    for index in unsure.tolist():
        near = levels[sure[np.abs(sure - index).argmin()]]
        levels[index] *= _factor(_brightness(near) / _brightness(levels[index]), distinct[index])
    told = f"{len(unsure)} slices of fewer than {SURE} grey values are matched to their neighbours"
    return levels, True, told if len(unsure) else ""


def restore(scores: NDArray[np.float64]) -> tuple[NDArray[np.float32], int] | None:
    """Turn one slice (H, W) of z-scores, also rounded to float32, into whole numbers, 0 outside.

    Returns levels (H, W), and how many distinct values are not background (below ``SURE`` a
    common factor may be missing). None where the values are not equally spaced.
    """
    background = most_frequent(scores.ravel())
    brain = scores != background
    values = scores[brain] - background
    levels = np.zeros(scores.shape, np.float32)
    if not values.size:
        return levels, 0
    stride = max(1, len(values) // SAMPLES)
    for sample in (values[::stride], values):  # all of them, if the sample has no two neighbours
        distinct = np.unique(sample)
        step = _common_step(distinct)
        if step is None:
            return None
        highest = float(np.abs(distinct).max())
        step = highest / round(highest / step)  # one gap of rounded scores tells it less exactly
        numbers = values / step
        rounded = np.rint(numbers)
        if np.abs(numbers - rounded).max() < TOLERANCE:
            levels[brain] = rounded
            return levels, len(distinct)
    return None


def _common_step(distinct: Array) -> float | None:
    """Largest step of which every value is a multiple, by Euclid's algorithm."""
    values = np.sort(np.append(distinct, 0.0))
    gaps = np.diff(values)
    step = float(gaps.min())
    while step > np.ptp(values) / MOST_LEVELS:
        rest = np.abs(gaps - np.rint(gaps / step) * step)
        left = rest[rest > TOLERANCE * step]
        if not left.size:
            return step
        step = float(left.min())
    return None


def _brightness(levels: Array) -> float:
    return float(np.median(np.abs(levels[levels != 0])))


def _factor(ratio: float, distinct: int) -> int:
    """Likeliest common divisor of so many numbers: one divides n random ones with chance g^-n."""
    factors = np.arange(1, max(2, int(2 * ratio) + 1))
    odd = (np.log(factors / ratio) / BRIGHTNESS_SD) ** 2 / 2
    cost = distinct * np.log(factors) + np.minimum(odd, ODD_COST)
    return int(factors[cost.argmin()])
