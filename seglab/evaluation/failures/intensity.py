"""Does an image's brightness lie in the range the network was trained on?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

QUANTILES: Final = (0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98)
NARROWEST: Final = 4.0
"""Grey levels: a smaller spread is taken for this one, so that training patients who happen
to be alike do not make everybody else an outlier."""
OUTSIDE: Final = 2.0
"""Standard deviations. Of patients held out at random (200 times 30 % of 18 BraTS, 14 LGG and
24 phantom patients) 1 to 5 % lie beyond; of phantoms under an uncorrected surface coil, all."""
FEWEST_PATIENTS: Final = 5
"""Fewer do not show a range."""

Levels = NDArray[np.float64]


@dataclass(frozen=True)
class IntensityRange:
    """Median and spread of each brain quantile over the training patients, in grey levels."""

    centre: tuple[float, ...]
    spread: tuple[float, ...]

    def excess(self, image: NDArray[np.uint8]) -> float:
        """How far the brightness of ``image`` lies from that of the training patients.

        Args:
            image: (S, H, W) as in :class:`~seglab.evaluation.case.Case`.

        Returns:
            Root mean square over the quantiles, in standard deviations; 0 without brain.
        """
        away = (brain_quantiles(image) - self.centre) / np.array(self.spread)
        return float(np.sqrt(np.mean(np.nan_to_num(away) ** 2)))

    def excludes(self, image: NDArray[np.uint8]) -> bool:
        """Whether ``image`` lies outside the range."""
        return self.excess(image) > OUTSIDE


def brain_quantiles(image: NDArray[np.uint8]) -> Levels:
    """Quantiles of the brain's grey levels (1 to 255), seven values; NaN without brain."""
    counts = np.bincount(image.ravel(), minlength=256)[1:]
    if not counts.any():
        return np.full(len(QUANTILES), np.nan)
    cumulated = np.cumsum(counts)
    ranks = np.ceil(np.array(QUANTILES) * cumulated[-1])
    levels: Levels = np.searchsorted(cumulated, ranks).astype(np.float64) + 1
    return levels


def learn_range(images: Iterable[NDArray[np.uint8]]) -> IntensityRange:
    """Learn the range from the training patients' images, each (S, H, W).

    Fewer than five of them with any brain show no range: then nothing lies outside it.
    """
    rows = np.array([brain_quantiles(image) for image in images]).reshape(-1, len(QUANTILES))
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < FEWEST_PATIENTS:
        return IntensityRange((0.0,) * len(QUANTILES), (np.inf,) * len(QUANTILES))
    spread = np.maximum(rows.std(axis=0, ddof=1), NARROWEST)
    return IntensityRange(tuple(np.median(rows, axis=0).tolist()), tuple(spread.tolist()))
