"""Intervals and tests with scipy, one arm after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def report_by_loop(arms: Sequence[NDArray[np.float64]], resamples: int) -> list[float]:
    """Bootstrap every arm's mean and its difference to the first arm, and test that."""
    p = []
    for values in arms:
        stats.bootstrap((values,), np.mean, n_resamples=resamples)
    for values in arms[1:]:
        difference = values - arms[0]
        stats.bootstrap((difference,), np.mean, n_resamples=resamples)
        p.append(float(stats.wilcoxon(difference).pvalue))
    return p
