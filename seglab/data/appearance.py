"""Figures of an image that tell FLAIR, T1, T1ce and T2 apart; :mod:`seglab.data.identity` judges.

All are ratios, so that scanner and scale do not matter:

``csf_brightness``
    Whether the extremes of the *symmetric* tissue are bright (towards 1) or dark (towards
    −1): (p98 + p2 − 2·p50) / (p98 − p2) of the smaller of each pixel and its mirror pixel.
    Ventricles and sulci lie on both sides, a tumour on one, so that a tumour hardly counts
    even where no mask is known.
``oedema_z``
    Median of the oedema above that of the healthy tissue, in its σ (interquartile range /
    1.349). Where the parts of the tumour are not known, its edge stands for the oedema.
``enhancement_z``
    Median of the enhancing part above that of the other tumour, in the same σ.
``bright_tail``
    The 99.9th percentile of the brain above the median of healthy tissue, in the same σ; of the
    slices the 90th percentile. Tumour makes one, or contrast agent, which is in vessels too;
    or fat, where the skull is on.
``skull_fall``
    Through a whole head the way inwards is bright scalp, dark bone, brain; through a brain
    that was taken out it is brain from the first pixel. The largest fall of the median
    brightness on that way, in units of the brain's own brightness.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.data.labels import ENHANCING, OEDEMA, UNKNOWN_PART

Image = NDArray[np.float32]
Labels = NDArray[np.uint8]
Region = NDArray[np.bool_]
NAN = float("nan")

MAX_SLICES = 15
"""Slices of a volume that are measured; a median needs no more."""
MOST = 0.9
"""Quantile over slices of ``bright_tail``: few slices may show what is bright."""
MIN_TISSUE = 0.08
"""Smallest share of the frame that a head must fill for a slice to say anything."""
MIN_REGION = 0.0005
"""Smallest share of the frame (29 px of 240²) whose median is used."""
RIM = 0.1
"""Depth cut off the outline, in √area: takes skull and scalp away where they are present."""
BLUR = 2 / 240
"""Blur before comparing with the mirror image, in sides: hemispheres match only roughly."""
EDGE = (1.5 / 240, 6 / 240)
"""Depth of the tumour's edge below its outline, in sides."""
SKULL_LAYERS = (0.015, 0.03, 0.045, 0.06, 0.075, 0.09, 0.12)
"""Edges of the layers in which the skull is looked for, in √area of the head."""
SKULL = 0.2
"""``skull_fall`` of a head with its skull is above this, of a brain without below. 18 BraTS FLAIR
volumes: at most 0.17; 14 of the LGG set: at least 0.28 on each channel, raw or as a cache holds
them."""


class Figures(NamedTuple):
    """One modality of one patient: medians over slices; NaN where they cannot tell."""

    csf_brightness: float
    oedema_z: float
    enhancement_z: float
    bright_tail: float
    skull_fall: float
    slices: int = 0
    """How many showed a head."""


def measure(
    images: NDArray[np.generic],
    modalities: Sequence[str],
    labels: Labels | None = None,
    *,
    mirror_axis: int = 0,
) -> dict[str, Figures]:
    """Measure each modality of one patient.

    Args:
        images: (M, S, H, W) in any units; the head is looked for on the first modality.
        modalities: M names.
        labels: (S, H, W) canonical labels (4 of a merged mask), or None where unknown.
        mirror_axis: axis of a slice along which left and right lie.
    """
    if labels is None:
        labels = np.zeros(images.shape[1:], np.uint8)
    chosen = _spread(images.shape[1])
    pairs = ((np.ascontiguousarray(images[:, i], np.float32), labels[i]) for i in chosen)
    table = np.array([_measure_slice(*pair, mirror_axis) for pair in pairs])  # (S, M, figures)
    slices = int(np.isfinite(table[:, 0, -1]).sum())
    found = {}
    for name, rows in zip(modalities, np.moveaxis(table, 1, 0), strict=True):
        figures = Figures._make([*map(median, rows.T), slices])
        found[name] = figures._replace(bright_tail=quantile(rows[:, 3], MOST))
    return found


def _measure_slice(images: Image, labels: Labels, mirror_axis: int) -> list[list[float]]:
    """``Figures`` of each modality of a slice: (M, 5)."""
    head, depth = find_head(images[0])
    inside = depth > RIM
    healthy = inside & (labels == 0)
    if np.count_nonzero(healthy) < MIN_TISSUE * labels.size / 4:
        return [[NAN] * 5 for _ in images]
    oedema = _edge(labels > 0) if (labels == UNKNOWN_PART).any() else labels == OEDEMA
    other = (labels > 0) & (labels != ENHANCING)
    both_sides = _mirrored(head, healthy, mirror_axis)
    rows = []
    for image in images:
        middle, spread = _scale_of(image[healthy])
        enhancement = _median_in(image, labels == ENHANCING) - _median_in(image, other)
        rows.append(
            [
                _symmetric_tail(image, *both_sides, mirror_axis),
                (_median_in(image, oedema) - middle) / spread,
                enhancement / spread,
                (float(np.percentile(image[inside], 99.9)) - middle) / spread,
                _fall(image, depth, image[inside]),
            ]
        )
    return rows


def find_head(image: Image) -> tuple[Region, Image]:
    """Find the head in a slice (H, W) of any scale.

    Returns:
        (H, W) head, filled; and (H, W) depth below its outline, in √area of the head. Both are
        empty where the slice shows too little.
    """
    low, high = np.percentile(image, (1, 99))
    empty = np.zeros(image.shape, np.bool_), np.zeros(image.shape, np.float32)
    if not high > low:
        return empty
    smooth = cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape))
    head = _largest_filled(smooth > low + 0.12 * (high - low))
    area = np.count_nonzero(head)
    if area < MIN_TISSUE * image.size:
        return empty
    return head, _depth(head) / np.float32(np.sqrt(area))


def median(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Median of the values that are not NaN; NaN where there are none."""
    return quantile(values, 0.5)


def quantile(values: Sequence[float] | NDArray[np.float64], share: float) -> float:
    """Likewise any quantile."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.quantile(known, share)) if known else NAN


def _spread(count: int) -> NDArray[np.intp]:
    """Up to ``MAX_SLICES`` positions, evenly over the middle 70 % of ``count``."""
    first, last = int(0.15 * count), max(int(0.85 * count) - 1, int(0.15 * count))
    return np.unique(np.linspace(first, last, MAX_SLICES).round().astype(np.intp))


def _scale_of(values: NDArray[np.float32]) -> tuple[float, float]:
    """Median and σ; σ is NaN where it is 0: nothing can be measured in it."""
    quarter, middle, three_quarters = np.percentile(values, (25, 50, 75))
    spread = float(three_quarters - quarter) / 1.349
    return float(middle), spread if spread > 0 else NAN


def _median_in(image: Image, region: Region) -> float:
    enough = np.count_nonzero(region) >= MIN_REGION * image.size
    return float(np.median(image[region])) if enough else NAN


def _edge(tumour: Region) -> Region:
    depth = _depth(tumour)
    low, high = (share * max(tumour.shape) for share in EDGE)
    return np.asarray((depth > low) & (depth <= high))


def _depth(region: Region) -> Image:
    """Distance in pixels to what is outside the region, or the frame."""
    framed = np.pad(region.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1])


def _largest_filled(region: Region) -> Region:
    """The largest connected part, its holes filled."""
    outlines, _ = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled = np.zeros(region.shape, dtype=np.uint8)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(np.bool_)


def _mirrored(head: Region, healthy: Region, axis: int) -> tuple[NDArray[np.intp], Region]:
    """Index of each row's (column's) partner about the middle of the head; healthy on both."""
    filled = np.flatnonzero(head.any(axis=1 - axis))
    positions = filled[0] + filled[-1] - np.arange(head.shape[axis])
    partner = np.asarray(np.clip(positions, 0, head.shape[axis] - 1))
    return partner, healthy & np.take(healthy, partner, axis)


def _symmetric_tail(image: Image, partner: NDArray[np.intp], both: Region, axis: int) -> float:
    if np.count_nonzero(both) < MIN_TISSUE * image.size / 8:
        return NAN
    smooth = cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape))
    symmetric = np.minimum(smooth, np.take(smooth, partner, axis))[both]
    low, middle, high = np.percentile(symmetric, (2, 50, 98))
    return float((high + low - 2 * middle) / (high - low)) if high > low else NAN


def _fall(image: Image, depth: Image, inside: NDArray[np.float32]) -> float:
    layers = [
        float(np.median(image[layer]))
        for low, high in itertools.pairwise(SKULL_LAYERS)
        if (layer := (depth > low) & (depth <= high)).any()
    ]
    brightness = float(np.median(inside) - np.percentile(image[::3, ::3], 1))
    brightest = np.maximum.accumulate(layers)
    return float((brightest - layers).max() / max(brightness, 1e-6))
