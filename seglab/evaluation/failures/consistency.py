"""Does the truth of a slice line up with that of its neighbours?"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from seglab.evaluation.failures.space import Bool, Space

FEWEST_PIXELS: Final = 20
"""Smaller outlines change from slice to slice by nature."""
LINED_UP: Final = {True: 0.75, False: 0.5}
"""Least overlap of neighbours, for thin slices and for thick ones. In 18 volumes of BraTS
2020 with 1 mm slices, 3 of 1,222 pairs lie below; in 14 of the LGG set, 2 of 148."""
SMOOTHER: Final = 0.1
"""How much better the prediction must line up than the truth, for the truth to be doubted."""


def neighbour_overlap(mask: Bool) -> NDArray[np.float64]:
    """Overlap of each slice with the next: shared pixels over those of the smaller outline.

    Unlike Dice it stays near 1 where a lesion merely grows or shrinks.

    Args:
        mask: (S, H, W).

    Returns:
        (S - 1,) in [0, 1]; NaN where either slice has fewer than 20 pixels.
    """
    pixels = mask.sum(axis=(1, 2))
    smaller = np.minimum(pixels[:-1], pixels[1:])
    shared = (mask[:-1] & mask[1:]).sum(axis=(1, 2))
    overlap = np.full(max(len(mask) - 1, 0), np.nan)
    enough = smaller >= FEWEST_PIXELS
    overlap[enough] = shared[enough] / smaller[enough]
    return overlap


def doubtful_pairs(truth: Bool, prediction: Bool, space: Space) -> NDArray[np.intp]:
    """Find neighbours whose truth does not line up although the prediction does.

    Args:
        truth: (S, H, W), of contiguous slices.
        prediction: (S, H, W).
        space: the patient's grid.

    Returns:
        Positions along S of the first slice of every pair.
    """
    overlap, predicted = neighbour_overlap(truth), neighbour_overlap(prediction)
    with np.errstate(invalid="ignore"):
        doubtful = (overlap < LINED_UP[space.thin]) & (predicted >= overlap + SMOOTHER)
    return np.flatnonzero(doubtful)


def inconsistent_slices(truth: Bool, prediction: Bool, space: Space) -> NDArray[np.intp]:
    """Find slices whose truth does not line up with a neighbour's although the prediction does.

    Args:
        truth: (S, H, W).
        prediction: (S, H, W).
        space: the patient's grid; without contiguous slices nothing can be said.

    Returns:
        Positions along S of both slices of every doubtful pair, and of slices that are
        empty between two whose outlines overlap.
    """
    if not space.contiguous or len(truth) < 3:
        return np.array([], dtype=np.intp)
    pairs = doubtful_pairs(truth, prediction, space)
    gaps = _gaps(truth, prediction, LINED_UP[space.thin])
    return np.union1d(np.union1d(pairs, pairs + 1), gaps)


def _gaps(truth: Bool, prediction: Bool, limit: float) -> NDArray[np.intp]:
    """Find empty slices between two that overlap, where something is predicted."""
    empty = np.asarray(truth.sum(axis=(1, 2)) == 0)
    before, after = truth[:-2], truth[2:]
    smaller = np.minimum(before.sum(axis=(1, 2)), after.sum(axis=(1, 2)))
    shared = (before & after).sum(axis=(1, 2))
    skipped = empty[1:-1] & (smaller >= FEWEST_PIXELS) & (shared >= limit * smaller)
    return np.flatnonzero(skipped & prediction[1:-1].any(axis=(1, 2))) + 1
