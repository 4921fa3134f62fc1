"""The luck of a run: what training again with another seed does to a mean.

Patients are the sample of the paired tests, so with many patients even the luck of
one seed looks like a difference between arms. Where arms have several seeds, their
spread tells how large that luck is (the variance component of a two-way layout,
seeds by patients), and a claim must stand beyond it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_SMALLEST_LOG_P = -300.0
_PERCENTILE = 0.45


@dataclass(frozen=True)
class SeedNoise:
    """Variance that a seed adds to an arm's mean, shared by all its patients."""

    variance: float
    """At least 0; NaN where no arm has two seeds or there is one patient."""
    cautious: float
    """What tests take it for: rather too large than too small."""
    degrees: int


def seed_noise(by_seed: Sequence[FloatArray]) -> SeedNoise:
    """Estimate it from all arms together.

    The variance of the seeds' means holds the noise of single patients too; its
    expected share, residual mean square / patients, is taken off (the estimate of the
    analysis of variance). Of few degrees of freedom that is mostly too small, and the
    larger the noise of patients, the oftener 0. Tests divide the variance of the means by
    the 45th percentile of its distribution before: slightly above a median-unbiased estimate.
    It keeps false claims below 6 % down to two arms of two seeds, where the plain
    estimate lets 9 % pass; with many arms both are the same.

    Args:
        by_seed: One (seeds, patients) array an arm, finite.
    """
    from scipy.special import gammaincinv

    repeated = [values for values in by_seed if len(values) > 1 and values.shape[1] > 1]
    if not repeated:
        return SeedNoise(float("nan"), float("nan"), 0)
    degrees = [len(values) - 1 for values in repeated]
    parts = np.average([_mean_squares(values) for values in repeated], axis=0, weights=degrees)
    between, within, total = float(parts[0]), float(parts[1]), sum(degrees)
    low = 2 * gammaincinv(total / 2, _PERCENTILE) / total  # of chi square over its mean
    return SeedNoise(max(0.0, between - within), max(0.0, between / low - within), total)


def p_beyond_seeds(differences: FloatArray, per_mean: float, noise: SeedNoise) -> float:
    """Two-sided p of the mean difference, patients and seeds both counted as luck.

    A t-test whose squared error is var(differences)/n + noise.cautious·per_mean, with the
    critical value of Cochran and Cox (1950): Student's of either part's degrees of
    freedom, weighted by the parts. Where the luck of seeds rests on two degrees of
    freedom (two arms of two seeds), Welch's and Satterthwaite's single number of degrees
    makes up to 8 % of false claims at a level of 5 %; this makes at most 5 %, and costs
    power only where seeds are few and their luck is large.

    Args:
        differences: (n,) paired differences, seeds averaged.
        per_mean: 1/seeds of the arm + 1/seeds of the baseline.
        noise: Of the comparison's arms.

    Returns:
        In [0, 1]; NaN where the noise is unknown.
    """
    if np.isnan(noise.variance):
        return float("nan")
    centre = abs(float(differences.mean()))
    return _level(centre, _parts(differences, per_mean, noise))


def p_equivalence_beyond_seeds(
    differences: FloatArray, margin: float, per_mean: float, noise: SeedNoise
) -> float:
    """P that the mean difference is outside ±margin, patients and seeds counted as luck.

    Schuirmann's two one-sided tests with the error and the critical value of
    :func:`p_beyond_seeds`. Without it one lucky run hides a difference, as it feigns one.

    Returns:
        In [0, 1]; NaN where the noise is unknown.
    """
    if np.isnan(noise.variance):
        return float("nan")
    distance = margin - abs(float(differences.mean()))
    tail = _level(abs(distance), _parts(differences, per_mean, noise)) / 2
    return tail if distance > 0 else 1 - tail


def _parts(
    differences: FloatArray, per_mean: float, noise: SeedNoise
) -> tuple[tuple[int, float], tuple[int, float]]:
    """Degrees of freedom and squared error of the mean, of patients and of seeds."""
    over_patients = float(differences.var(ddof=1)) / len(differences)
    return (len(differences) - 1, over_patients), (noise.degrees, noise.cautious * per_mean)


def _level(distance: float, parts: Sequence[tuple[int, float]]) -> float:
    """Two-sided level at which Cochran's critical distance is ``distance``, at least 0.

    Args:
        distance: of the mean from what it is held against.
        parts: degrees of freedom, and squared error.
    """
    from scipy.optimize import brentq
    from scipy.special import stdtrit

    error = sum(squared for _, squared in parts)
    if error == 0:
        return 1.0 if distance == 0 else 0.0

    def short_of(log_p: float) -> float:
        tail = np.exp(log_p) / 2
        critical = sum(-stdtrit(df, tail) * part for df, part in parts if part > 0) / error
        return float(critical - distance / np.sqrt(error))

    if short_of(_SMALLEST_LOG_P) <= 0:
        return 0.0
    return float(np.exp(brentq(short_of, _SMALLEST_LOG_P, 0.0, xtol=1e-13, rtol=1e-14)))


def _mean_squares(values: FloatArray) -> tuple[float, float]:
    """Variance of the seeds' means, and the share that the noise of patients has in it."""
    seeds, patients = values.shape
    residual = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    mean_square = np.square(residual).sum() / ((seeds - 1) * (patients - 1))
    return float(values.mean(axis=1).var(ddof=1)), float(mean_square / patients)
