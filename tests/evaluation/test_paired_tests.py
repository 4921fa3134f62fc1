"""Tests and sample sizes against scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from seglab.evaluation import paired_tests, power
from seglab.evaluation.seed_noise import (
    SeedNoise,
    p_beyond_seeds,
    p_equivalence_beyond_seeds,
    seed_noise,
)


@pytest.mark.parametrize("patients", [4, 10, 14, 50, 51, 120])
@pytest.mark.parametrize("step", [None, 0.02])
def test_wilcoxon_equals_scipy_with_and_without_ties(patients: int, step: float | None) -> None:
    rng = np.random.default_rng(patients)
    rows = rng.normal(0.02, 0.05, (4, patients))
    if step:
        rows = np.round(rows / step) * step
        rows[0, 0] = 0
    expected = [stats.wilcoxon(row).pvalue for row in rows]
    np.testing.assert_allclose(paired_tests.wilcoxon(rows), expected, rtol=1e-9)


@pytest.mark.parametrize("patients", [6, 60])
def test_arms_without_any_difference_have_p_one(patients: int) -> None:
    rows = np.zeros((2, patients))
    rows[1] = np.arange(patients) + 1.0
    first, second = paired_tests.wilcoxon(rows)
    assert first == 1
    assert second < 0.05


@pytest.mark.slow
def test_wilcoxon_equals_scipy_where_it_visits_every_sign() -> None:
    rng = np.random.default_rng(13)
    rows = np.round(rng.normal(0.02, 0.05, (3, 13)), 2)
    expected = [stats.wilcoxon(row).pvalue for row in rows]
    np.testing.assert_allclose(paired_tests.wilcoxon(rows), expected, rtol=1e-9)


@pytest.mark.parametrize("arms", [1, 2, 5, 12])
def test_holm_equals_statsmodels(arms: int) -> None:
    rng = np.random.default_rng(arms)
    for power_of_p in (0.2, 1, 4):
        p_values = rng.random(arms) ** power_of_p
        p_values[rng.integers(0, arms, arms // 2)] = p_values[0]
        expected = multipletests(p_values, method="holm")[1]
        np.testing.assert_allclose(paired_tests.holm(p_values), expected, rtol=1e-12)


def test_holm_of_no_arm_is_empty() -> None:
    assert paired_tests.holm([]).shape == (0,)


@pytest.mark.parametrize("patients", [2, 3, 20, 80])
@pytest.mark.parametrize("mean", [-0.03, -0.009, 0.0, 0.004, 0.02])
def test_equivalence_equals_statsmodels(mean: float, patients: int) -> None:
    rng = np.random.default_rng(patients)
    first, second = rng.random(patients), rng.random(patients)
    second = first - mean - 0.03 * (second - 0.5)
    expected = ttost_paired(first, second, -0.01, 0.01)[0]
    assert paired_tests.equivalence(first - second, 0.01) == pytest.approx(expected, abs=1e-9)


def test_equivalence_without_spread_or_with_one_patient() -> None:
    assert paired_tests.equivalence(np.zeros(5), 0.01) == 0
    assert paired_tests.equivalence(np.full(5, 0.5), 0.01) == 1
    assert math.isnan(paired_tests.equivalence(np.array([0.0]), 0.01))


@pytest.mark.parametrize("patients", [1, 2, 5, 6, 10])
def test_smallest_p_is_what_scipy_gives_when_all_agree(patients: int) -> None:
    expected = stats.wilcoxon(np.arange(1.0, patients + 1)).pvalue
    assert paired_tests.smallest_p(patients) == pytest.approx(expected)


@pytest.mark.parametrize("level", [0.05, 0.05 / 4])
@pytest.mark.parametrize("effect", [0.1, 0.4, 0.8, 1.5])
def test_patients_to_detect_equal_statsmodels(effect: float, level: float) -> None:
    exact = math.ceil(TTestPower().solve_power(effect, power=0.8, alpha=level))
    assert abs(power.patients_to_detect(-effect * 0.05, 0.05, level) - exact) <= 1


@pytest.mark.parametrize(("difference", "sd"), [(0.0, 0.05), (0.004, 0.03), (-0.008, 0.02)])
def test_patients_for_equivalence_give_the_power_they_promise(difference: float, sd: float) -> None:
    patients = power.patients_for_equivalence(difference, sd, 0.01, 0.05)
    assert patients is not None
    assert tost_power(difference, sd, patients) == pytest.approx(0.8, abs=0.02)
    assert tost_power(difference, sd, patients // 2) < 0.7


def tost_power(difference: float, sd: float, n: int) -> float:
    """Share of 20,000 experiments, drawn through their sufficient statistics."""
    rng = np.random.default_rng(0)
    mean = rng.normal(difference, sd / math.sqrt(n), 20_000)
    error = sd * np.sqrt(rng.chisquare(n - 1, 20_000) / (n - 1) / n)
    return float(np.mean((0.01 - np.abs(mean)) / error > stats.t.ppf(0.95, n - 1)))


def test_no_number_of_patients_shows_what_is_not_there() -> None:
    assert power.patients_to_detect(0.0, 0.05, 0.05) is None
    assert power.patients_for_equivalence(0.01, 0.05, 0.01, 0.05) is None
    assert power.patients_to_detect(1e-9, 0.05, 0.05) is None
    assert power.patients_to_detect(0.02, math.nan, 0.05) is None
    assert power.patients_to_detect(0.5, 0.0, 0.05) == 2


@pytest.mark.parametrize("sd_seeds", [0.0, 0.002, 0.006])
def test_patients_are_counted_beside_the_luck_of_seeds(sd_seeds: float) -> None:
    """The power of a z-test of a mean with both errors, by drawing the mean."""
    n = power.patients_to_detect(0.02, 0.05, 0.05, sd_seeds**2)
    assert n is not None
    error = math.hypot(0.05 / math.sqrt(n), sd_seeds)
    means = np.random.default_rng(0).normal(0.02, error, 100_000)
    assert np.mean(np.abs(means) > 1.96 * error) == pytest.approx(0.8, abs=0.02)


def test_no_number_of_patients_outweighs_the_luck_of_seeds() -> None:
    assert power.patients_to_detect(0.02, 0.05, 0.05, 0.008**2) is None
    assert power.patients_for_equivalence(0.0, 0.05, 0.01, 0.05, 0.004**2) is None
    few = power.patients_for_equivalence(0.0, 0.05, 0.01, 0.05)
    more = power.patients_for_equivalence(0.0, 0.05, 0.01, 0.05, 0.002**2)
    assert few is not None
    assert more is not None
    assert few < more


def test_seed_noise_recovers_its_variance() -> None:
    rng = np.random.default_rng(2)
    arms = [
        rng.normal(0.8, 0.1, 40) + rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.05, (3, 40))
        for _ in range(400)
    ]
    noise = seed_noise(arms)
    assert noise.degrees == 800
    assert math.sqrt(noise.variance) == pytest.approx(0.02, rel=0.05)
    assert noise.cautious == pytest.approx(noise.variance, rel=0.05)


def test_seed_noise_is_unknown_with_one_seed_and_zero_when_seeds_agree() -> None:
    assert math.isnan(seed_noise([np.zeros((1, 9)), np.zeros((1, 9))]).variance)
    assert seed_noise([np.tile(np.arange(9.0), (3, 1))]).variance == 0


def test_of_few_seeds_the_cautious_variance_is_too_small_in_less_than_half_of_cases() -> None:
    rng = np.random.default_rng(4)
    luck, residual = 0.01 * rng.normal(size=(4_000, 2, 2, 1)), rng.normal(size=(4_000, 2, 2, 55))
    noises = [seed_noise(list(arms)) for arms in 0.8 + luck + 0.02 * residual]
    below = np.mean([noise.cautious < 0.01**2 for noise in noises])
    assert below == pytest.approx(0.45, abs=0.03)
    assert np.mean([noise.variance < 0.01**2 for noise in noises]) > 0.55


def test_without_seed_noise_the_test_is_the_paired_t_test() -> None:
    d = np.random.default_rng(3).normal(0.01, 0.05, 30)
    agreeing = seed_noise([np.tile(np.arange(30.0), (2, 1))])
    assert p_beyond_seeds(d, 1.0, agreeing) == pytest.approx(stats.ttest_1samp(d, 0).pvalue)


@pytest.mark.parametrize("mean", [0.0, 0.008, 0.02])
def test_without_seed_noise_equivalence_is_that_of_two_t_tests(mean: float) -> None:
    d = np.random.default_rng(3).normal(mean, 0.02, 30)
    agreeing = seed_noise([np.tile(np.arange(30.0), (2, 1))])
    expected = ttost_paired(d, np.zeros(30), -0.01, 0.01)[0]
    assert p_equivalence_beyond_seeds(d, 0.01, 1.0, agreeing) == pytest.approx(expected)


def test_seed_noise_weakens_a_claim() -> None:
    d = np.random.default_rng(3).normal(0.02, 0.01, 30)
    noisy = seed_noise([np.arange(3.0)[:, None] * 0.02 + np.zeros(30)])
    assert p_beyond_seeds(d, 2 / 3, noisy) > 0.2
    assert p_beyond_seeds(np.zeros(30), 2 / 3, seed_noise([np.zeros((2, 30))])) == 1


@pytest.mark.parametrize(("arms", "seeds"), [(2, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("sd_run", [0.0, 0.005, 0.01, 0.02])
def test_the_luck_of_few_seeds_is_not_taken_for_a_difference(
    arms: int, seeds: int, sd_run: float
) -> None:
    rng = np.random.default_rng(arms + seeds)
    small = 0
    for _ in range(1_500):
        values = rng.normal(0, 0.03, (arms, 1, 55)) + rng.normal(0, 0.02, (arms, seeds, 55))
        values += rng.normal(0, sd_run, (arms, seeds, 1))
        d = values[1].mean(axis=0) - values[0].mean(axis=0)
        small += p_beyond_seeds(d, 2 / seeds, seed_noise(list(values))) < 0.05
    assert small / 1_500 <= 0.06


def test_the_level_of_two_parts_is_where_cochrans_value_is_reached() -> None:
    rng = np.random.default_rng(8)
    d, noise = rng.normal(0.03, 0.05, 20), SeedNoise(0.005**2, 0.006**2, 3)
    p = p_beyond_seeds(d, 1.0, noise)
    patients = d.var(ddof=1) / 20
    quantile = [stats.t.isf(p / 2, df) for df in (19, 3)]
    critical = np.average(quantile, weights=[patients, noise.cautious])
    assert abs(d.mean()) / math.sqrt(patients + noise.cautious) == pytest.approx(critical)
    assert p_beyond_seeds(d + 1e6, 1.0, noise) < 1e-9
