"""The operating point, chosen on validation: the simplest that is as good as the best.

Every setting of a small grid is scored by the mean patient Dice. Of the settings
within one standard error of the best, the simplest is taken (the one-standard-error
rule; Breiman 1984): a gain that the validation patients cannot tell from luck is not
worth a step more, and does not carry over to the test. The error is that of the paired
difference to the best over patients: all settings are tried on the same patients, and how
much these differ from each other, which is far more, says nothing about the settings.
Gains below ``SMALLEST_GAIN`` are never worth a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.progress import progress
from seglab.data.cache import Cache
from seglab.learning.inference import Predictor
from seglab.learning.postprocess import (
    PLAIN_THRESHOLD,
    Mirrored,
    OperatingPoint,
    fill_holes,
    label_components,
)

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_GAIN = 0.002
"""Of the mean Dice; what two or three patients agree on by chance can have no error at all."""
SMALLEST_COMPONENTS_PX = (0, 10, 50, 200, 500)
PLAIN = OperatingPoint()

Dice = dict[OperatingPoint, float]


@dataclass(frozen=True)
class Tried:
    """One setting and what validation says of it."""

    point: OperatingPoint
    dice: float
    """Mean over validation patients with tumour."""


@dataclass(frozen=True)
class Choice:
    """The chosen setting and why."""

    point: OperatingPoint
    dice: float
    best: Tried
    standard_error: float
    """Of the mean difference between the best and the plain setting, over patients; NaN for
    fewer than two patients."""
    patients: int
    """Validation patients with tumour, who decided."""
    tried: Sequence[Tried]
    """Every setting, best first."""

    def to_json(self) -> dict[str, Any]:
        """As the artifact ``operating_point.json`` holds it."""
        return {
            "chosen": {**self.point.to_dict(), "val/dice": self.dice},
            "best": {**self.best.point.to_dict(), "val/dice": self.best.dice},
            "standard_error_to_plain": self.standard_error
            if math.isfinite(self.standard_error)
            else None,
            "rule": "the simplest setting whose mean patient Dice is within one standard error "
            "(of the paired difference over patients) of the best",
            "patients": self.patients,
            "tried": [{**one.point.to_dict(), "val/dice": one.dice} for one in self.tried],
        }


def choose_operating_point(predictor: Predictor, cache: Cache, validation: Sequence[str]) -> Choice:
    """Choose on validation patients; each is predicted once, and once mirrored.

    Where fewer than two of them have tumour nothing can be chosen: the plain 0.5
    threshold is taken.
    """
    scores: list[Dice] = []
    for name in progress(validation, "operating point", unit="patient"):
        patient = cache.by_id[name]
        if not patient.tumour_px.any():
            continue
        truth = cache.native_mask(patient).view(np.bool_)
        found: Dice = {}
        for mirror in (False, True):
            probability = with_mirror(predictor, cache.mirror_axis, mirror).native(cache, patient)
            for point, dice in score_settings(probability, truth, patient.slice_indices):
                found[replace(point, mirror=mirror)] = dice
        scores.append(found)
    return choose({point: [one[point] for one in scores] for point in scores[0]} if scores else {})


def with_mirror(predictor: Predictor, mirror_axis: int, mirror: bool) -> Predictor:
    """Return the predictor, mirrored if the operating point asks for it."""
    if not mirror:
        return predictor
    return replace(predictor, network=Mirrored(predictor.network, mirror_axis))


def choose(scores: Mapping[OperatingPoint, Sequence[float]]) -> Choice:
    """Apply the one-standard-error rule.

    Args:
        scores: Dice of each setting on the same patients; the plain setting is among them.
    """
    tried = sorted(
        (Tried(point, float(np.mean(dice))) for point, dice in scores.items()),
        key=lambda one: (-one.dice, complexity(one.point)),
    )
    if not tried:
        plain = Tried(PLAIN, math.nan)
        return Choice(PLAIN, math.nan, plain, math.nan, 0, [plain])
    best, patients = tried[0], len(scores[tried[0].point])
    if patients < 2:
        plain = next(one for one in tried if one.point == PLAIN)
        return Choice(PLAIN, plain.dice, best, math.nan, patients, tried)
    top = np.asarray(scores[best.point])
    errors = {point: _standard_error(top - np.asarray(dice)) for point, dice in scores.items()}
    good = [one for one in tried if best.dice - one.dice <= max(errors[one.point], SMALLEST_GAIN)]
    chosen = min(good, key=lambda one: complexity(one.point))
    return Choice(chosen.point, chosen.dice, best, errors[PLAIN], patients, tried)


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def complexity(point: OperatingPoint) -> tuple[float, ...]:
    """Order settings: fewer steps first, mirroring (twice the time) last, then nearer to plain."""
    steps = point.fill_holes + (point.smallest_component_px > 0) + point.mirror
    distance = round(abs(point.threshold - PLAIN_THRESHOLD), 6)
    return (
        steps, point.mirror, distance, point.smallest_component_px, point.fill_holes,
        point.threshold,
    )  # fmt: skip


def score_settings(
    probability: NDArray[np.float32], truth: NDArray[np.bool_], slice_indices: NDArray[Any]
) -> Iterator[tuple[OperatingPoint, float]]:
    """Yield every setting without mirroring, and the patient's Dice under it.

    Equal to applying each setting by itself; the components are found once for all
    sizes.

    Args:
        probability: (S, H, W) native.
        truth: (S, H, W) with some tumour.
        slice_indices: (S,) positions in the stack.
    """
    total = np.count_nonzero(truth)
    area = _around(probability > min(THRESHOLDS))
    inside, inner_truth = probability[area], truth[area]
    for threshold in THRESHOLDS:
        mask = inside > threshold
        for fill in (False, True):
            labels = label_components(fill_holes(mask) if fill else mask, slice_indices[area[0]])
            sizes = np.bincount(labels.ravel())
            hits = np.bincount(labels[inner_truth], minlength=len(sizes))
            for smallest in SMALLEST_COMPONENTS_PX:
                kept = sizes >= smallest
                kept[0] = False
                dice = 2 * hits[kept].sum() / (sizes[kept].sum() + total)
                yield OperatingPoint(threshold, smallest, fill), float(dice)


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Window around the True voxels, with a border: a hole must not open to the edge by cutting."""
    windows = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, 0)
        windows.append(slice(max(first - 1, 0), last + 2))
    return windows[0], windows[1], windows[2]
