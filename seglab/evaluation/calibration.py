"""Do probabilities mean what they say, and where in the stack is the Dice lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.metrics import dice, slice_counts

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Pixels by predicted probability, in ``BINS`` bins of equal width."""

    pixels: IntArray
    """(BINS,)"""
    tumour: IntArray
    """(BINS,) those of them that are tumour."""
    probability: FloatArray
    """(BINS,) sum of their probabilities."""

    @property
    def confidence(self) -> FloatArray:
        """(BINS,) mean probability; NaN in an empty bin."""
        return _divided(self.probability, self.pixels)

    @property
    def frequency(self) -> FloatArray:
        """(BINS,) share of tumour; NaN in an empty bin."""
        return _divided(self.tumour, self.pixels)

    @property
    def expected_error(self) -> float:
        """Expected calibration error (Naeini 2015): mean gap, weighted by pixels; in [0, 1].

        Most pixels of a brain are background that the network is sure of: they keep it small.
        """
        if not self.pixels.sum():
            return float("nan")
        gaps = np.nan_to_num(np.abs(self.confidence - self.frequency))
        return float((gaps * self.pixels).sum() / self.pixels.sum())


def reliability(
    probability: NDArray[np.float32], truth: NDArray[np.uint8], inside: NDArray[np.bool_]
) -> Reliability:
    """Count the pixels of one patient.

    Args:
        probability: (S, H, W) in [0, 1].
        truth: (S, H, W) in {0, 1}.
        inside: (S, H, W) pixels that count: the brain, not the easy air around it.
    """
    p = probability[inside]
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    counts = [
        np.bincount(bins, weights=weights, minlength=BINS)
        for weights in (None, truth[inside].astype(np.float64), p.astype(np.float64))
    ]
    pixels, tumour, total = counts
    return Reliability(pixels.astype(np.int64), tumour.astype(np.int64), total.astype(np.float64))


def pooled_reliability(patients: Sequence[Reliability]) -> Reliability:
    """Add up patients."""
    return Reliability(
        np.sum([one.pixels for one in patients], axis=0),
        np.sum([one.tumour for one in patients], axis=0),
        np.sum([one.probability for one in patients], axis=0),
    )


@dataclass(frozen=True)
class SliceDice:
    """Dice of a patient's slices that have tumour or a prediction."""

    position: FloatArray
    """(n,) place in the stack, 0 the first slice and 1 the last."""
    dice: FloatArray
    """(n,)"""


def slice_dice(
    prediction: NDArray[np.generic],
    truth: NDArray[np.uint8],
    slice_indices: NDArray[np.int32],
    stack_size: int,
) -> SliceDice:
    """Score each slice of (S, H, W) masks by itself."""
    scores = dice(slice_counts(prediction, truth))
    known = np.isfinite(scores)
    return SliceDice(slice_indices[known] / max(stack_size - 1, 1), scores[known])


def _divided(above: NDArray[np.generic], below: IntArray) -> FloatArray:
    out: FloatArray = np.full(len(below), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out
