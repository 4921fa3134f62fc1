"""Does an image's brightness lie in the range the network was trained on?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

QUANTILES: Final = (0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98)
SLACK: Final = 0.5
"""Widens the range seen in training by this share of its width on either side."""
NARROWEST: Final = 16.0
"""Grey levels: a range narrower than this is widened to it, so that a few alike training
patients do not make everybody else an outlier."""

Levels = NDArray[np.float64]


@dataclass(frozen=True)
class IntensityRange:
    """Lowest and highest value of each brain quantile over the training patients."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def excess(self, image: NDArray[np.uint8]) -> float:
        """How far ``image`` lies outside the range, in widths of it.

        Args:
            image: (S, H, W) as in :class:`~seglab.evaluation.case.Case`.

        Returns:
            The largest excess over the quantiles; 0 inside, and for an image without brain.
        """
        values = brain_quantiles(image)
        low, high = np.array(self.low), np.array(self.high)
        width = np.maximum(high - low, NARROWEST)
        outside = np.maximum(low - values, values - high) / width
        return float(np.nan_to_num(np.maximum(outside, 0)).max())

    def excludes(self, image: NDArray[np.uint8]) -> bool:
        """Whether ``image`` lies outside the range with its slack."""
        return self.excess(image) > SLACK


def brain_quantiles(image: NDArray[np.uint8]) -> Levels:
    """Quantiles of the brain's grey levels (1 to 255), seven values; NaN without brain."""
    brain = image[image > 0]
    if not brain.size:
        return np.full(len(QUANTILES), np.nan)
    return np.quantile(brain, QUANTILES)


def learn_range(images: Iterable[NDArray[np.uint8]]) -> IntensityRange:
    """Learn the range from the training patients' images, each (S, H, W).

    Raises:
        ValueError: no image shows any brain.
    """
    rows = np.array([brain_quantiles(image) for image in images]).reshape(-1, len(QUANTILES))
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        raise ValueError("no training image shows any brain")
    return IntensityRange(tuple(rows.min(axis=0).tolist()), tuple(rows.max(axis=0).tolist()))
