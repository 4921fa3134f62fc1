"""Do probabilities mean what they say, and where in the stack is the Dice lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.metrics import dice, slice_counts

FloatArray = NDArray[np.float64]
BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Pixels by predicted probability, in ``BINS`` bins of equal width."""

    pixels: FloatArray
    """(BINS,)"""
    tumour: FloatArray
    """(BINS,) those of them that are tumour."""
    probability: FloatArray
    """(BINS,) sum of their probabilities."""

    @property
    def confidence(self) -> FloatArray:
        """(BINS,) mean probability; NaN in an empty bin."""
        return self.probability / np.where(self.pixels > 0, self.pixels, np.nan)

    @property
    def frequency(self) -> FloatArray:
        """(BINS,) share of tumour; NaN in an empty bin."""
        return self.tumour / np.where(self.pixels > 0, self.pixels, np.nan)

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
    p = probability[inside].astype(np.float64)
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    weights = (np.ones_like(p), truth[inside].astype(np.float64), p)
    sums = np.array([np.bincount(bins, one, minlength=BINS) for one in weights], dtype=np.float64)
    return Reliability(*sums)


def pooled_reliability(patients: Sequence[Reliability]) -> Reliability:
    """Add up patients."""
    return Reliability(*np.sum([list(vars(one).values()) for one in patients], axis=0))


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
