"""The bootstrap against scipy on the same resamples, and its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from seglab.evaluation.bootstrap import FEWEST_PATIENTS, bootstrap


def sample(count: int, patients: int) -> np.ndarray:
    return np.random.default_rng(11).gamma(0.8, 0.05, (count, patients))


@pytest.mark.parametrize("patients", [9, 55, 313])
def test_means_equal_scipy_on_the_same_resamples(patients: int) -> None:
    values = sample(3, patients)
    found = bootstrap(values, 999, np.random.default_rng(4))
    for row, means in zip(values, found.means, strict=True):
        scipy = stats.bootstrap((row,), np.mean, n_resamples=999, rng=np.random.default_rng(4))
        np.testing.assert_allclose(means, scipy.bootstrap_distribution, rtol=1e-12)


def test_interval_equals_the_studentised_one_built_from_scipy() -> None:
    row = sample(1, 55)[0]

    def pivot(resampled: np.ndarray, axis: int) -> np.ndarray:
        distance = resampled.mean(axis=axis) - row.mean()
        return np.abs(distance) / stats.sem(resampled, axis=axis)

    scipy = stats.bootstrap(
        (row,), pivot, n_resamples=4_000, method="percentile", rng=np.random.default_rng(8)
    )
    factor = np.sort(scipy.bootstrap_distribution)[3_800 - 1]
    half = bootstrap(row[None], 4_000, np.random.default_rng(8)).half_widths(0.95)
    # The standard error of a resample has n - 1 in scipy; here n cancels into n - 1 as well.
    assert half[0] == pytest.approx(factor * stats.sem(row), rel=1e-9)


@pytest.mark.parametrize("patients", range(2, FEWEST_PATIENTS))
def test_few_patients_get_students_interval(patients: int) -> None:
    row = sample(1, patients)
    half = bootstrap(row, 500, np.random.default_rng(0)).half_widths(0.9)[0]
    low, high = stats.ttest_1samp(row[0], 0).confidence_interval(0.9)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-9)


def test_values_that_hardly_differ_keep_a_finite_interval() -> None:
    values = np.zeros((2, 20))
    values[0, 3] = 0.1
    half = bootstrap(values, 2_000, np.random.default_rng(0)).half_widths(0.95)
    assert half[0] == pytest.approx(stats.t.ppf(0.975, 19) * stats.sem(values[0]))
    assert half[1] == 0


def test_rounding_is_not_taken_for_spread() -> None:
    half = bootstrap(np.full((1, 30), 0.1), 500, np.random.default_rng(0)).half_widths(0.95)
    assert half[0] == pytest.approx(0, abs=1e-15)


def test_one_patient_has_no_interval() -> None:
    found = bootstrap(np.array([[0.8]]), 100, np.random.default_rng(0))
    assert math.isnan(found.half_widths(0.95)[0])


def p_wrong_sign(values: np.ndarray, resamples: int = 2_000) -> np.ndarray:
    return bootstrap(np.atleast_2d(values), resamples, np.random.default_rng(3)).p_wrong_sign()


def test_the_wrong_sign_of_few_is_students_but_no_rarer_than_heads_in_a_row() -> None:
    mixed = np.array([0.02, -0.01, 0.05, 0.01])
    student = stats.ttest_1samp(mixed, 0, alternative="greater").pvalue
    assert p_wrong_sign(mixed)[0] == pytest.approx(student)
    alike = np.array([0.050, 0.051, 0.049])
    assert stats.ttest_1samp(alike, 0).pvalue < 0.001
    # Wilcoxon's two-sided p of three that agree is 0.25.
    assert p_wrong_sign(alike)[0] == p_wrong_sign(-alike)[0] == 0.125
    assert p_wrong_sign(np.full(20, 0.1))[0] == 2**-20
    assert p_wrong_sign(np.array([0.3]))[0] == p_wrong_sign(np.zeros(9))[0] == 0.5


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_wrong_sign_and_the_interval_agree(confidence: float) -> None:
    values = np.random.default_rng(5).normal(0.015, 0.05, (200, 30))
    found = bootstrap(values, 2_000, np.random.default_rng(6))
    claims = np.abs(values.mean(axis=1)) > found.half_widths(confidence)
    level = (1 - confidence) / 2
    np.testing.assert_array_equal(claims, found.p_wrong_sign() <= level + 0.5 / 2_000)


@pytest.mark.parametrize("patients", [3, 5, 7, 8, 12, 20, 55])
def test_equal_arms_seldom_have_a_small_chance_of_the_wrong_sign(patients: int) -> None:
    values = np.random.default_rng(patients).standard_t(5, (4_000, patients))
    p = p_wrong_sign(values, 1_000)
    for level in (0.01, 0.05):
        share = np.mean(p < level)
        noise = 3 * math.sqrt(2 * level * (1 - 2 * level) / len(values))
        assert share <= 2 * level + noise


def test_quantities_share_their_resamples() -> None:
    values = sample(2, 40)
    found = bootstrap(np.vstack([values, values[1] - values[0]]), 300, np.random.default_rng(0))
    np.testing.assert_allclose(found.means[1] - found.means[0], found.means[2], atol=1e-14)


def differences(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """(2000, 55) paired differences and their true mean."""
    size = (2_000, 55)
    if kind == "normal":
        return rng.normal(0.02, 0.05, size), 0.02
    if kind == "heavy tails":
        return 0.02 + 0.05 * rng.standard_t(4, size) / math.sqrt(2), 0.02
    if kind == "skewed":
        return 0.05 * rng.exponential(1.0, size), 0.05
    difficulty = rng.normal(2.2, 0.9, size)
    arms = [difficulty + 0.25 * rng.standard_t(4, size) for _ in range(2)]
    first, second = (1 / (1 + np.exp(-arm)) for arm in arms)
    return second - first, 0.0


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "skewed", "dice"])
def test_the_interval_covers_the_true_difference(kind: str) -> None:
    values, truth = differences(kind, np.random.default_rng(20))
    half = bootstrap(values, 1_000, np.random.default_rng(21)).half_widths(0.95)
    covered = np.abs(values.mean(axis=1) - truth) <= half
    assert 0.93 <= covered.mean() <= 0.97
