"""Bootstrap over patients: one set of resamples shared by every quantity.

Resample b is a row of weights, how often it draws each patient. The means of all
quantities in all resamples are then one matrix product, and quantities of one
table (the means of the arms, their differences) move together, as they should.

The interval is the symmetric studentised one (symmetric bootstrap-t; Hall 1988):
mean ± q·se, where q is the confidence quantile of |mean* - mean| / se* over the
resamples. For differences of Dice of 55 patients, skewed or with heavy tails, it
covers 95 to 96 %, where the percentile interval, BCa and the equal-tailed
studentised one come down to 92 to 94 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BLOCK = 1 << 16
FEWEST_PATIENTS = 8
"""Below this a resample too often draws a single patient; Student's interval is used."""


@dataclass(frozen=True)
class Bootstrap:
    """Means of K quantities in B resamples of n patients."""

    values: FloatArray
    """(K, n) the sample."""
    means: FloatArray
    """(K, B) of the resamples."""
    errors: FloatArray
    """(K, B) standard errors of those means."""

    def half_widths(self, confidence: float) -> FloatArray:
        """Half widths (K,) of the intervals of the means; NaN for a single patient.

        Student's interval stands in where there are fewer than ``FEWEST_PATIENTS``, or
        where so many patients share one value that resamples without spread reach the
        quantile.

        Args:
            confidence: In (0, 1).
        """
        patients = self.values.shape[1]
        factor = np.full(len(self.values), _student_quantile(confidence, patients))
        if patients >= FEWEST_PATIENTS:
            resampled = _order_statistic(self._pivots(), confidence)
            factor = np.where(np.isfinite(resampled), resampled, factor)
        half: FloatArray = factor * standard_error(self.values)
        return half

    def p_wrong_sign(self) -> FloatArray:
        """Probability (K,) that a mean does not have the sign it shows; in (0, 0.5].

        Half the smallest level at which :meth:`half_widths` leaves zero outside: the
        share of pivots beyond the mean's own, (1 + count) / (1 + B) as in Davison and
        Hinkley (1997, 4.2.5), or, where Student's interval is used, his one-sided p,
        which is the posterior probability under Jeffreys' prior (Gelman et al., Bayesian
        Data Analysis, 3.2). Never below 2**-n: without an assumption on the shape, that
        all of n patients agree is no rarer than n heads in a row (Fisher 1935).
        """
        count, distance = self.values.shape[1], np.abs(self.values.mean(axis=1))
        own = _over_error(distance, standard_error(self.values))
        p = _student_tail(own, count)
        if count >= FEWEST_PATIENTS:
            beyond = np.count_nonzero(self._pivots() >= own[:, None], axis=1)
            resampled = (1 + beyond) / (1 + self.means.shape[1]) / 2
            # A mean of millions of its errors has no spread but that of rounding.
            p = np.where(own < 1e6, resampled, p)
        p[distance == 0] = 0.5
        return np.clip(p, 2.0**-count, 0.5)

    def _pivots(self) -> FloatArray:
        return _over_error(
            np.abs(self.means - self.values.mean(axis=1, keepdims=True)), self.errors
        )


def bootstrap(values: FloatArray, resamples: int, rng: np.random.Generator) -> Bootstrap:
    """Resample patients.

    Args:
        values: (K, n) finite; K quantities of the same n >= 1 patients.
        resamples: How many, 10,000 for a report.
        rng: Draws the (resamples, n) patient numbers in the order in which
            ``scipy.stats.bootstrap`` does: the same generator gives the same resamples.
    """
    patients = values.shape[1]
    # Centring first keeps the variance from cancelling.
    centre = values.mean(axis=1, keepdims=True)
    centred = values - centre
    squared = np.square(centred)
    means, squares = _resampled_means(np.stack([centred, squared]), resamples, rng)
    squares -= np.square(means)
    # Rounding leaves about 1e-16 of the sample's own variance where there is no spread.
    squares[squares < 1e-14 * squared.mean(axis=1, keepdims=True)] = 0.0
    squares /= max(patients - 1, 1)
    means += centre
    return Bootstrap(values=values, means=means, errors=np.sqrt(squares, out=squares))


def standard_error(values: FloatArray) -> FloatArray:
    """Standard error of the mean over the last axis; NaN for a single value."""
    count = values.shape[-1]
    if count < 2:
        return np.full(values.shape[:-1], np.nan)
    error: FloatArray = values.std(axis=-1, ddof=1) / np.sqrt(count)
    return error


def _resampled_means(values: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Means over the last axis of ``values`` (..., n) in each resample: (..., B)."""
    patients = values.shape[-1]
    means: FloatArray = np.empty((*values.shape[:-1], resamples))
    # A block of draws, its counts and their product stay in the cache of one core.
    block = max(1, BLOCK // patients)
    row = np.arange(block)[:, None] * patients
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, patients, (size, patients))
        drawn += row[:size]
        counts = np.bincount(drawn.ravel(), minlength=size * patients).astype(np.float64)
        means[..., start : start + size] = values @ counts.reshape(size, patients).T
    means /= patients
    return means


def _over_error(distance: FloatArray, errors: FloatArray) -> FloatArray:
    """Distances in standard errors; without spread nothing is known of the error: infinite."""
    pivots = np.full_like(distance, np.inf)
    np.divide(distance, errors, out=pivots, where=errors > 0)
    return pivots


def _student_tail(distance: FloatArray, patients: int) -> FloatArray:
    """One-sided p of Student's t; 0.5 where one patient, or no difference, tells nothing."""
    from scipy.special import stdtr

    if patients < 2:
        return np.full_like(distance, 0.5)
    tail: FloatArray = stdtr(patients - 1, -distance)
    return tail


def _order_statistic(values: FloatArray, share: float) -> FloatArray:
    """Smallest value (K,) that at least ``share`` of each row of (K, B) do not exceed."""
    rank = min(max(math.ceil(share * values.shape[1]), 1), values.shape[1]) - 1
    return np.partition(values, rank, axis=1)[:, rank]


def _student_quantile(confidence: float, patients: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(patients - 1, (1 + confidence) / 2)) if patients > 1 else float("nan")
