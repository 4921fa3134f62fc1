"""From a scanner's units to uint8: find the background, normalise the rest, clip.

0 is background. 1 to 255 span the clipped range of the brain, linearly, so that
``value ≈ scale[s, 0] + q * scale[s, 1]`` undoes the quantisation of slice ``s`` (``histogram``
moves values between the outer deciles before).

Slices that were z-scored one by one first get the scanner's whole numbers back: the values of such
a slice are equally spaced, 1/σ of the slice apart, and the smallest gap is one unit of the scanner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Method = Literal["zscore", "robust", "percentile", "histogram"]
Scope = Literal["slice", "volume"]

LEVELS = 254  # steps of the brain's range: 1 to 255
ENDS: dict[str, tuple[float, float, float]] = {
    "zscore": (-3.0, 5.0, 8.0),
    "robust": (-3.0, 5.0, 10.0),
    "percentile": (0.5, 99.5, 99.99),
    "histogram": (-3.0, 5.0, 8.0),
}
"""Lower end of the range, upper end, and that of T1ce, whose brightest part is enhancing tumour:
of 8 BraTS volumes the upper ends of the others would clip up to 2 %, 52 % and 17 % of it, those of
T1ce clip 0, 0 and 0.2 %."""
EXACT_SHARE = 0.5
"""A skull-stripped background is one value over most of the frame (0.81 to 0.88 in BraTS;
in the LGG set, where air is noise, no value reaches 0.42)."""
NOISE_SHARE = 0.08  # where air is noise: the part of the slice's range that counts as air
SAMPLED_SIDE = 60  # pixels a side, about, of the grid on which the background is judged
_RELATIVE_EPSILON, _SMALLEST = 1e-6, 1e-30  # a narrower range is no contrast
_LARGEST = float(np.finfo(np.float32).max) / 2  # of a range, whose width is a float32 too
_MAD_TO_DEVIATION = 1.4826
DECILES = np.arange(10, 100, 10)
STANDARD = np.array(
    [NormalDist().inv_cdf(share / 100) for share in DECILES]
)  # of a normal distribution

MOST_LEVELS = 2**16
"""Of whole numbers that a scanner writes; more of them are numbers with a fraction."""
TOLERANCE = 1e-3  # of a unit. Whole numbers come back to within 1e-9, others lie anywhere.
SAMPLES = 2048  # so many pixels of a brain tell the gap, and all of them test it
SURE = 10  # so many distinct values have no common divisor (1 in 1,000 has, if they fall by chance)
BRIGHTNESS_SD = 0.5
"""Of the logarithm of an almost empty slice's brightness over that of its neighbours."""
ODD_COST = 8.0
"""The brightness costs no more than this: the last slice of an interpolation is dark by itself."""

Bool = NDArray[np.bool_]
Values = NDArray[Any]
Range = tuple[float, float]


def range_ends(method: str, modality: str) -> Range:
    """What becomes levels 1 and 255: deviations from the centre, or percentiles."""
    low, high, high_t1ce = ENDS[method]
    return low, high_t1ce if modality == "t1ce" else high


def brain_mask(image: NDArray[np.float32], *, shared_scale: bool) -> Bool:
    """Find the pixels (S, H, W) that are not background, in an image of any units.

    Where most of the frame is one value, only that value is background, however dark the brain
    is. Otherwise the background is noise, and what lies near the bottom of the range is taken
    for it. Constant slices and values that are not finite are background. Slices of a
    ``shared_scale`` share one background; others are looked at each by itself.
    """
    stride = max(1, max(image.shape[1:]) // SAMPLED_SIDE)
    samples = image[:, ::stride, ::stride]
    if shared_scale:
        samples = samples[:: max(1, len(samples) // SAMPLED_SIDE)].reshape(1, -1)
    samples = samples.reshape(len(samples), -1)
    brain: Bool = image != _per_slice(most_frequent, samples)
    if np.count_nonzero(brain) > (1 - EXACT_SHARE) * brain.size:
        brain = image > _per_slice(_noise_ceiling, samples)
    # NaN differs from every background value. To sum up takes a third of the time of looking.
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(image)
    if not np.isfinite(total):
        brain &= np.isfinite(image)
    return brain


def quantise(
    image: NDArray[np.float32], brain: Bool, method: Method, scope: Scope, modality: str = "flair"
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Normalise over the brain and quantise; outliers are clipped to the ends.

    A brain without contrast (one pixel, one value) becomes one middling grey. ``image`` (S, H, W)
    is finite on the brain. ``zscore`` spans ``ENDS`` standard deviations around the mean,
    ``robust`` 1.4826 times as many median absolute deviations around the median, ``percentile``
    percentiles: of each slice, or of the whole volume. The modality decides the upper end.
    ``histogram`` first brings the deciles of the brain to those of a normal distribution.

    Returns q (S, H, W) uint8: 0 background, 1 to 255 brain; and scale (S, 2) float32: offset and
    step of each slice, in the units of ``image``.
    """
    ends = range_ends(method, modality)
    per_volume = scope == "volume"
    whole = _range(image, brain, method, ends) if per_volume else None
    is_common = method == "histogram" and per_volume and brain.any()
    deciles = _deciles(image, brain) if is_common else None
    q = np.zeros(image.shape, np.uint8)
    scale = np.empty((len(image), 2), np.float32)
    for index, (values, inside) in enumerate(zip(image, brain, strict=True)):
        low, high = whole or _range(values, inside, method, ends)
        step = (high - low) / LEVELS
        scale[index] = low - step, step
        if not inside.any():
            continue
        if method == "histogram":
            values = _standardise(values, _deciles(values, inside) if deciles is None else deciles)
        with np.errstate(invalid="ignore"):
            above = np.clip(values, np.float32(low), np.float32(high))
            above -= np.float32(low)
        # Scaled, rounded and narrowed in one pass; clipped before, for beyond int32 it goes wrong.
        q[index] = cv2.convertScaleAbs(above, alpha=1 / step, beta=1)
        q[index] *= inside
    return q, scale


def _per_slice(function: Callable[[Values], float], samples: Values) -> NDArray[np.float32]:
    """Apply to the finite samples of each row; (rows, 1, 1), to compare with (S, H, W)."""
    finite = (row[np.isfinite(row)] for row in samples)
    found = [function(row) if len(row) else 0.0 for row in finite]
    return np.array(found, np.float32)[:, None, None]


def most_frequent(values: Values) -> float:
    """The most frequent of values (n,), by sorting only where the first is not half of them."""
    corner = values[0]
    if np.count_nonzero(values == corner) > len(values) / 2:
        return float(corner)
    distinct, counts = np.unique(values, return_counts=True)
    return float(distinct[counts.argmax()])


def _noise_ceiling(values: Values) -> float:
    low, high = np.percentile(values, (1, 99.5))
    return float(low + NOISE_SHARE * (high - low))


def _range(image: Values, brain: Bool, method: Method, ends: Range) -> Range:
    """Return the values that become levels 1 and 255; never equal."""
    if not brain.any():
        return 0.0, 1.0
    if method == "percentile":
        low, high = map(float, np.percentile(image[brain], ends))
    else:
        centre, deviation = _LOCATE[method](image, brain)
        low, high = centre + ends[0] * deviation, centre + ends[1] * deviation
    largest = max(abs(low), abs(high))
    if largest > _LARGEST:
        return -_LARGEST, _LARGEST
    smallest = max(_RELATIVE_EPSILON * largest, _SMALLEST)
    if high - low > smallest:
        return low, high
    (mean, _), deviation = _mean_and_deviation(image, brain), max(1.0, smallest)
    return mean - 3 * deviation, mean + 5 * deviation  # the ends of zscore


def _mean_and_deviation(image: Values, brain: Bool) -> Range:
    """Over the brain, summed in float64, without taking its pixels out."""
    width = image.shape[-1]
    inside = brain.reshape(-1, width).view(np.uint8)
    mean, deviation = cv2.meanStdDev(image.reshape(-1, width), mask=inside)
    return float(mean[0, 0]), float(deviation[0, 0])


def _median_and_deviation(image: Values, brain: Bool) -> Range:
    pixels = image[brain]
    median = np.median(pixels)
    spread = _MAD_TO_DEVIATION * float(np.median(np.abs(pixels - median)))
    # It is 0 where more than half of the brain has one value.
    return (float(median), spread) if spread else _mean_and_deviation(image, brain)


def _deciles(image: Values, brain: Bool) -> Values:
    return np.asarray(np.percentile(image[brain].astype(float), DECILES))


def _median_and_width(image: Values, brain: Bool) -> Range:
    """Of a normal distribution with the outer deciles of the brain."""
    found = _deciles(image, brain)
    width = float((found[-1] - found[0]) / (STANDARD[-1] - STANDARD[0]))
    # It is 0 where most of the brain has one value.
    return (float(found[4]), width) if width else _mean_and_deviation(image, brain)


def _standardise(values: Values, deciles: Values) -> Values:
    """Map values piecewise linearly, the deciles of a brain to those of a normal distribution.

    Histogram standardisation (Nyúl, Udupa and Zhang, IEEE Trans. Med. Imaging 19, 2000), with a
    fixed scale in place of one that is learned from training patients. Median and outer width
    stay; beyond the outer deciles the mean slope between them goes on.
    """
    width = (deciles[-1] - deciles[0]) / (STANDARD[-1] - STANDARD[0])
    if not width:
        return values
    beyond = values - np.clip(values, deciles[0], deciles[-1])
    return np.asarray(deciles[4] + width * np.interp(values, deciles, STANDARD) + beyond)


_LOCATE = {
    "zscore": _mean_and_deviation,
    "robust": _median_and_deviation,
    "histogram": _median_and_width,
}


def one_scale(slices: Sequence[Values] | Values) -> tuple[NDArray[np.float32], bool, str]:
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
    count = f"{len(unsure)} slice{'s' * (len(unsure) > 1)} of the patient"
    told = "slices with too few grey values to tell their intensity scale take it from a neighbour"
    told = f"{told} ({count})"
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


def _common_step(distinct: Values) -> float | None:
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


def _brightness(levels: Values) -> float:
    return float(np.median(np.abs(levels[levels != 0])))


def _factor(ratio: float, distinct: int) -> int:
    """Likeliest common divisor of so many numbers: one divides n random ones with chance g^-n."""
    factors = np.arange(1, max(2, int(2 * ratio) + 1))
    odd = (np.log(factors / ratio) / BRIGHTNESS_SD) ** 2 / 2
    cost = distinct * np.log(factors) + np.minimum(odd, ODD_COST)
    return int(factors[cost.argmin()])
