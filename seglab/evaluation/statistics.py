"""The paired test of arms: would other patients, and other seeds, show the difference too?

docs/statistics.md gives its formulas and sources, and shows what other rules get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
RESAMPLES = 9_999
POWER = 0.80
MOST_PATIENTS = 10_000_000
FEWEST_WITH_VERDICT = 4
"""Of fewer patients, more than one resample in twenty is one patient several times over."""


@dataclass(frozen=True)
class SeedVariance:
    """What seeds add to the mean of an arm, over the arms that have several."""

    mean_square: FloatArray
    """Variance of the seeds' means, the noise of single runs included; NaN: one seed only."""
    residual: FloatArray  # the part of ``mean_square`` that is noise of single runs, in expectation
    degrees: int

    @property
    def component(self) -> FloatArray:
        """Between-seed variance of an arm's mean, at least 0; NaN: one seed only."""
        return np.maximum(self.mean_square - self.residual, 0.0)


def seed_variance(by_seed: Sequence[FloatArray]) -> SeedVariance:
    """Pool the mean squares of seeds, and of the residual over patients, over arms.

    ``by_seed``: one (…, seeds, patients) array an arm, finite; leading axes are experiments.
    """
    repeated = [values for values in by_seed if min(values.shape[-2:]) > 1]
    if not repeated:
        return SeedVariance(np.array(np.nan), np.array(np.nan), 0)
    weights = [values.shape[-2] - 1 for values in repeated]
    squares = np.array([_mean_squares(values) for values in repeated])
    between, residual = np.average(squares, axis=0, weights=weights)
    return SeedVariance(between, residual, sum(weights))


def _mean_squares(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    seeds, patients = values.shape[-2:]
    of_seed = values.mean(axis=-1, keepdims=True)
    residual = values - of_seed
    residual -= residual.mean(axis=-2, keepdims=True)
    degrees = (seeds - 1) * (patients - 1)
    within = np.square(residual).sum(axis=(-2, -1)) / degrees / patients
    return of_seed[..., 0].var(axis=-1, ddof=1), within


@dataclass(frozen=True)
class PairedTest:
    """Mean differences of K pairs of arms, and what they are judged by."""

    diff: FloatArray  # (K,)
    error: FloatArray  # (K,) standard errors
    critical: FloatArray
    """(K, B) critical values of |diff| / error at the levels 1/(B + 1), 2/(B + 1), …"""

    @property
    def p(self) -> FloatArray:
        """Two-sided p (K,) of no difference."""
        return self._p(np.abs(self.diff))

    def half_width(self, level: float) -> FloatArray:
        """Half widths (K,) of intervals of confidence 1 - ``level``; NaN where unbounded.

        They leave 0 outside where :attr:`p` is at most the level, and only there.
        """
        rank = math.floor(level * (self.critical.shape[1] + 1) + 1e-6)
        half = self.critical[:, rank - 1] * self.error if rank else np.full_like(self.diff, np.inf)
        return np.where(np.isfinite(half), half, np.nan)

    def p_equivalence(self, margin: float) -> FloatArray:
        """p (K,) of two one-sided tests (Schuirmann 1987); small says |difference| < margin."""
        distance = margin - np.abs(self.diff)
        tail = self._p(np.abs(distance)) / 2
        return np.where(distance > 0, tail, 1 - tail)

    def _p(self, distance: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.nan_to_num(distance / self.error, nan=0.0, posinf=np.inf)
        beyond = np.count_nonzero(self.critical >= own[:, None], axis=1)
        p: FloatArray = (1 + beyond) / (1 + self.critical.shape[1])
        return p


def paired_test(
    differences: FloatArray,
    per_mean: ArrayLike,
    seeds: SeedVariance,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> PairedTest:
    """Test the means of K rows of paired differences against 0.

    Cochran and Cox's critical values (1950): those of patients, by the symmetric bootstrap-t
    (Hall 1988), and of seeds, Student's, averaged with their shares of the squared error.

    ``differences`` (K, n) are finite, one number a patient, seeds averaged; ``per_mean`` (K,) are
    1/seeds of the arm + 1/seeds of the baseline. ``seeds`` pools those of the arms; its figures are
    scalars or (K,). ``rng`` draws the same patients for every row.
    """
    from scipy.special import stdtrit

    count, diff = differences.shape[1], differences.mean(axis=1)
    if count < FEWEST_WITH_VERDICT:
        return PairedTest(diff, np.full_like(diff, np.nan), np.full((len(diff), resamples), np.inf))
    of_patients, of_seeds = differences.var(axis=1, ddof=1) / count, np.zeros_like(diff)
    if seeds.degrees:
        of_patients = np.maximum(of_patients - seeds.residual * np.asarray(per_mean), 0.0)
        of_seeds = of_seeds + seeds.mean_square * np.asarray(per_mean)
    squared = of_patients + of_seeds
    share = np.divide(of_patients, squared, out=np.zeros_like(diff), where=squared > 0)[:, None]
    pivots = np.sort(bootstrap_pivots(differences, resamples, rng), axis=1)[:, ::-1]
    critical = np.where(share > 0, pivots, 0.0) * share
    if seeds.degrees:
        levels = np.arange(1, resamples + 1) / (resamples + 1)
        rest = np.where(squared > 0, 1.0, 0.0)[:, None] - share
        critical += stdtrit(seeds.degrees, 1 - levels / 2) * rest
    return PairedTest(diff, np.sqrt(squared), critical)


def bootstrap_pivots(values: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """|mean* - mean| / se* of K rows of n values in B resamples: (K, B); inf without spread."""
    count = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    drawn = rng.integers(0, count, (resamples, count)) + count * np.arange(resamples)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(drawn.shape) / count
    means, squares = centred @ weights.T, np.square(centred) @ weights.T
    variance = squares - np.square(means)
    # Rounding leaves about 1e-16 of the sample's own variance where there is no spread.
    spread = variance > 1e-14 * np.square(centred).mean(axis=1, keepdims=True)
    pivots: FloatArray = np.full_like(means, np.inf)
    pivots[spread] = np.abs(means[spread]) / np.sqrt(variance[spread] / (count - 1))
    return pivots


def holm(p: FloatArray) -> FloatArray:
    """Correct p (n,) for n tests (Holm 1979), as ``statsmodels.stats.multitest`` does.

    That collects garbage at each call, which takes longer than all else of a comparison.
    """
    order = np.argsort(p)
    corrected = np.empty_like(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def share_first(values: FloatArray, rng: np.random.Generator, resamples: int) -> FloatArray:
    """Share (K,) of resamples of the patients in which each arm has the highest mean.

    ``values`` are (K, n) finite scores of K arms, seeds averaged; every arm is given the same
    patients, ties are shared out, and the shares add up to 1. It says how much the order rests on
    these patients (bootstrap; Efron 1979): not how likely an arm is best, nor what seeds change.
    """
    count = values.shape[1]
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    means = (values / count) @ drawn.T
    first = means >= means.max(axis=0) - 1e-12  # equal scores are not added up equally
    shares: FloatArray = (first / first.sum(axis=0)).mean(axis=1)
    return shares


def patients_to_decide(
    difference: float,
    sd: float,
    margin: float,
    level: float,
    arms: int,
    of_seeds: float,
    degrees: int,
) -> tuple[int | None, int | None]:
    """Patients that give 80 % power to find the difference, and to show equivalence.

    Takes the observed figures for the truth: a guide for planning. The difference must exceed
    c + z(0.8) standard errors (Guenther 1981), where c is the critical value of the test; for
    equivalence margin - |difference| must exceed c + z(0.9) (Chow, Shao and Wang 2008).

    ``difference`` is the mean paired difference, of either sign, planned for Holm's strictest step
    of so many ``arms`` beside the baseline; seeds, with ``degrees`` of freedom, add ``of_seeds`` to
    the squared error sd²/n. Returns two numbers of at least 2, each None where no number of
    patients is enough.
    """
    z = NormalDist().inv_cdf
    apart, seeds = abs(difference), (of_seeds, degrees)
    find = _fewest(apart, sd, level / arms / 2, z(POWER), *seeds)
    return find, _fewest(margin - apart, sd, level, z((1 + POWER) / 2), *seeds)


def _fewest(
    distance: float, sd: float, tail: float, beyond: float, of_seeds: float, degrees: int
) -> int | None:
    """Patients whose one-sided critical value, and ``beyond``, are no more errors than distance.

    Cochran and Cox's value is quantile + excess · of_seeds / error²: a quadratic in the error.
    """
    from scipy.special import stdtrit

    quantile = NormalDist().inv_cdf(1 - tail)
    excess = float(stdtrit(degrees, 1 - tail)) - quantile if degrees else 0.0
    both = quantile + beyond
    root = distance**2 - 4 * both * excess * of_seeds
    if distance <= 0 or root < 0:
        return None
    left = ((distance + math.sqrt(root)) / (2 * both)) ** 2 - of_seeds
    # A squared quantile over 2 for the estimated spread.
    count = sd**2 / left + quantile**2 / 2 if left > 0 else math.inf
    return max(2, math.ceil(count)) if count < MOST_PATIENTS else None
