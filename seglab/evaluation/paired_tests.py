"""Tests of paired differences over patients, and the correction for several arms."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seglab.evaluation.bootstrap import standard_error

FloatArray = NDArray[np.float64]
EXACT_UP_TO = 50
"""Patients beyond which scipy's test is asymptotic whatever the data."""
ENUMERATED_UP_TO = 13
"""Patients up to which scipy visits every assignment of signs where there are ties."""


def wilcoxon(differences: FloatArray) -> FloatArray:
    """Two-sided p of Wilcoxon's signed-rank test, as ``scipy.stats.wilcoxon`` gives it.

    Args:
        differences: (m, n) finite, one test a row. Zeros are left out (Wilcoxon's own
            treatment); where nothing else remains p is 1.

    Returns:
        (m,)
    """
    from scipy import stats

    p = np.ones(len(differences))
    some = differences.any(axis=1)
    if differences.shape[1] > EXACT_UP_TO:
        if some.any():
            p[some] = stats.wilcoxon(differences[some], axis=1).pvalue
        return p
    p[some] = [_wilcoxon_of_few(row) for row in differences[some]]
    return p


def _wilcoxon_of_few(row: FloatArray) -> float:
    from scipy import stats

    sizes = np.abs(row)
    tied = len(np.unique(sizes)) < len(row) or not sizes.all()
    if tied and len(row) <= ENUMERATED_UP_TO:
        return _enumerated(row[row != 0])
    return float(stats.wilcoxon(row).pvalue)


def _enumerated(row: FloatArray) -> float:
    """Two-sided p over all assignments of signs to the (tied) ranks of non-zero values.

    What scipy finds by visiting every assignment, seconds a test, is the distribution of
    a sum of independent terms: one convolution a rank. Ranks are doubled, since ties
    share half ranks.
    """
    from scipy.stats import rankdata

    ranks = np.rint(2 * rankdata(np.abs(row))).astype(np.int64)
    chances = np.ones(1)
    for rank in ranks:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    observed = int(ranks[row > 0].sum())
    return float(min(1.0, 2 * min(chances[: observed + 1].sum(), chances[observed:].sum())))


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjustment (1979): reject where it is at most the level.

    Args:
        p_values: (m,) in [0, 1].

    Returns:
        (m,) adjusted p in the order given; the family-wise error stays below the level
        whatever the dependence between the tests.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def equivalence(differences: FloatArray, margin: float) -> float:
    """P of the two one-sided paired t-tests (Schuirmann 1987); small says |mean| < margin.

    Args:
        differences: (n,) finite; NaN is returned for n = 1.
        margin: Largest difference that does not matter, above 0.
    """
    from scipy.special import stdtr

    centre, error = float(np.mean(differences)), float(standard_error(differences))
    if np.isnan(error):
        return float("nan")
    distance = margin - abs(centre)
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(len(differences) - 1, -distance / error))


def smallest_p(patients: int) -> float:
    """Smallest two-sided p that Wilcoxon's test can give: all differences of one sign."""
    return min(1.0, 2.0 ** (1 - patients))
