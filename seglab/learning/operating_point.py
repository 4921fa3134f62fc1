"""How probabilities become a mask, and how validation selects it: the simplest that is as good.

Of the settings whose mean patient Dice is within one standard error of the best, the simplest is
taken (Breiman 1984). The error is that of the paired difference to the best over patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.arrays import bounding_box
from seglab.core.machine import progress
from seglab.data.cache import Cache
from seglab.learning.inference import Predictor

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_COMPONENTS_PX = (0, 10, 50, 200, 500)
SMALLEST_GAIN = 0.002
"""Of the mean Dice; what two or three patients agree on by chance can have no error at all."""

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class OperatingPoint:
    """How a network's output becomes a mask; the default is the plain 0.5 threshold."""

    threshold: float = 0.5  # a pixel is tumour where its probability is above it
    smallest_component_px: int = 0  # components of fewer native voxels are dropped
    fill_holes: bool = False  # fill what a slice's mask encloses
    mirror: bool = False  # average the logits of the image and of its left–right mirror image

    def apply(self, probability: Float32, slice_indices: NDArray[Any]) -> Bool:
        """Make the mask (S, H, W) of native probabilities; no component crosses a gap."""
        mask: Bool = probability > self.threshold
        if self.fill_holes:
            mask = fill_holes(mask)
        if self.smallest_component_px > 1 and mask.any():
            labels = label_components(mask, slice_indices)
            large = np.bincount(labels.ravel()) >= self.smallest_component_px
            large[0] = False
            mask = large[labels]
        return mask

    def in_doubt(self, probability: Float32, disagreement: Float32) -> Bool:
        """Voxels that a change of the probability by its members' SD moves over the threshold."""
        doubtful: Bool = np.abs(probability - self.threshold) < disagreement
        return doubtful


PLAIN = OperatingPoint()


@dataclass(frozen=True)
class Selection:
    """The selected setting and why."""

    point: OperatingPoint
    dice: Mapping[OperatingPoint, float]  # mean over patients; of every setting, best first
    standard_error: float  # of the mean difference between best and plain; NaN below 2 patients
    patients: int  # validation patients with tumour, who decided

    def to_json(self) -> dict[str, Any]:
        """As the artifact ``operating_point.json`` holds it."""
        candidates = [{**vars(point), "val/dice": dice} for point, dice in self.dice.items()]
        error = self.standard_error
        return {
            "chosen": {**vars(self.point), "val/dice": self.dice[self.point]},
            "best": candidates[0],
            "standard_error_to_plain": error if math.isfinite(error) else None,
            "rule": "the simplest setting whose mean patient Dice is within one standard error "
            "(of the paired difference over patients) of the best",
            "patients": self.patients,
            "candidates": candidates,
        }


def score_points(
    predictor: Predictor, cache: Cache, validation: Sequence[str]
) -> dict[OperatingPoint, list[float]]:
    """Dice of every setting on each validation patient with tumour, in their order."""
    mirrors = (False,) if cache.flip_axis is None else (False, True)
    scores: dict[OperatingPoint, list[float]] = {}
    for name in progress(validation, "operating point", unit="patient"):
        patient = cache.by_id[name]
        truth = cache.native_mask(patient).view(np.bool_)
        if not truth.any():
            continue
        for mirror in mirrors:
            probability = replace(predictor, mirror=mirror).native(cache, patient)
            for point, dice in score_settings(probability, truth, patient.slice_indices):
                scores.setdefault(replace(point, mirror=mirror), []).append(dice)
    return scores


def select(scores: Mapping[OperatingPoint, Sequence[float]]) -> Selection:
    """Apply the rule to each setting's Dice on the same patients; the plain one is among them.

    That is selected where they are fewer than two.
    """
    means = {point: float(np.mean(dice)) for point, dice in scores.items()} or {PLAIN: math.nan}
    ranked = sorted(means, key=lambda point: (-means[point], complexity(point)))
    means = {point: means[point] for point in ranked}
    best, patients = ranked[0], len(scores.get(PLAIN, ()))
    if patients < 2:
        return Selection(PLAIN, means, math.nan, patients)
    lost = {point: np.subtract(scores[best], dice) for point, dice in scores.items()}
    errors = {one: float(np.std(each, ddof=1) / math.sqrt(patients)) for one, each in lost.items()}
    good = [one for one in ranked if means[best] - means[one] <= max(errors[one], SMALLEST_GAIN)]
    return Selection(min(good, key=complexity), means, errors[PLAIN], patients)


def complexity(point: OperatingPoint) -> tuple[float, ...]:
    """Order settings: fewer steps first, mirroring (twice the time) last, then nearer to plain."""
    size, fills, mirrors = point.smallest_component_px, point.fill_holes, point.mirror
    distance = round(abs(point.threshold - PLAIN.threshold), 6)
    return fills + (size > 0) + mirrors, mirrors, distance, size, fills, point.threshold


def score_settings(
    probability: Float32, truth: Bool, slice_indices: NDArray[Any]
) -> Iterator[tuple[OperatingPoint, float]]:
    """Yield every setting without mirroring, and the patient's Dice if it were applied.

    Probability and truth, with some tumour, are native (S, H, W).
    """
    total = np.count_nonzero(truth)
    found = bounding_box(probability > min(THRESHOLDS)) or (slice(0, 1),) * 3
    # With a border: cropping must not open a hole to the edge.
    window = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in found)
    inside, inner_truth = probability[window], truth[window]
    for threshold in THRESHOLDS:
        mask = inside > threshold
        for fill in (False, True):
            labels = label_components(fill_holes(mask) if fill else mask, slice_indices[window[0]])
            sizes = np.bincount(labels.ravel())
            hits = np.bincount(labels[inner_truth], minlength=len(sizes))
            for smallest in SMALLEST_COMPONENTS_PX:
                kept = sizes >= smallest
                kept[0] = False
                dice = 2 * hits[kept].sum() / (sizes[kept].sum() + total)
                yield OperatingPoint(threshold, smallest, fill), float(dice)


def fill_holes(mask: Bool) -> Bool:
    """Fill, slice by slice, the background that touches no border of (S, H, W)."""
    from scipy.ndimage import binary_fill_holes

    filled = mask.copy()
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        filled[index] = binary_fill_holes(mask[index])
    return filled


def label_components(mask: Bool, slice_indices: NDArray[Any]) -> NDArray[np.int32]:
    """Number the components (26 neighbours) of (S, H, W) from 1; none crosses a gap."""
    from scipy.ndimage import label

    gaps = np.flatnonzero(np.diff(slice_indices) != 1) + 1
    apart = np.insert(mask, gaps, False, axis=0)  # an empty slice in each gap
    labels, _ = label(apart, np.ones((3, 3, 3)), output=np.int32)
    return np.delete(labels, gaps + np.arange(len(gaps)), axis=0)
